{{- define "prefect-otel-agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of all objects: 52 characters, since the pod's label with a hash of the StatefulSet adds 11. */}}
{{- define "prefect-otel-agent.fullname" -}}
{{- $name := include "prefect-otel-agent.name" . }}
{{- if .Values.fullnameOverride }}
{{- $name = .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- $name = .Release.Name }}
{{- else }}
{{- $name = printf "%s-%s" .Release.Name $name }}
{{- end }}
{{- $name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "prefect-otel-agent.selectorLabels" -}}
app.kubernetes.io/name: {{ include "prefect-otel-agent.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "prefect-otel-agent.labels" -}}
{{ include "prefect-otel-agent.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{/* The labels of the pods that the agent runs in. */}}
{{- define "prefect-otel-agent.podSelector" -}}
{{- if .Values.sidecar.enabled }}
{{- toYaml .Values.sidecar.podLabels }}
{{- else }}
{{- include "prefect-otel-agent.selectorLabels" . }}
{{- end }}
{{- end }}

{{- define "prefect-otel-agent.serviceAccountName" -}}
{{- $created := .Values.serviceAccount.create | ternary (include "prefect-otel-agent.fullname" .) "default" }}
{{- default $created .Values.serviceAccount.name }}
{{- end }}

{{- define "prefect-otel-agent.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "prefect-otel-agent.isSharded" -}}
{{- if gt (int .Values.replicaCount) 1 }}true{{ end }}
{{- end }}

{{/*
service.instance.id, and the label instance of the monitors. The arguments "namespace" and "pod" are how
these names are written there: they are known when the pod runs, not when the chart is rendered without
Helm. Each of several agents has its own.
*/}}
{{- define "prefect-otel-agent.instance" -}}
{{- $sharded := include "prefect-otel-agent.isSharded" .context }}
{{- with .context.Values }}
{{- if and .instance $sharded }}
{{- printf "%s/%s" .instance $.pod }}
{{- else if .instance }}
{{- .instance }}
{{- else }}
{{- $agent := include "prefect-otel-agent.fullname" $.context }}
{{- if $sharded }}{{ $agent = $.pod }}{{ end }}
{{- list .clusterName $.namespace $agent | compact | join "/" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The targets' labels job and instance are those that the agent has when it pushes. */}}
{{- define "prefect-otel-agent.relabelings" -}}
- targetLabel: job
  replacement: {{ .Chart.Name }}
{{- if include "prefect-otel-agent.isSharded" . }}
- sourceLabels: [__meta_kubernetes_namespace, __meta_kubernetes_pod_name]
  separator: /
  regex: (.+)/(.+)
  targetLabel: instance
{{- else }}
- sourceLabels: [__meta_kubernetes_namespace]
  targetLabel: instance
{{- end }}
  replacement: {{ include "prefect-otel-agent.instance" (dict "namespace" "${1}" "pod" "${2}" "context" .) }}
{{- end }}

{{/* The environment, each variable once: a later source replaces an earlier one. */}}
{{- define "prefect-otel-agent.env" -}}
{{- $env := dict "METRICS_PORT" .Values.service.targetPort "STATE_DIR" "/state" }}
{{- $_ := include "prefect-otel-agent.prefectEnv" . | fromYaml | merge $env }}
{{- $_ := include "prefect-otel-agent.otlpEnv" . | fromYaml | merge $env }}
{{- if .Values.webConfig.existingSecret }}{{ $_ := set $env "WEB_CONFIG_FILE" "/web/web.yml" }}{{ end }}
{{- with include "prefect-otel-agent.exporters" . }}{{ $_ := set $env "OTEL_METRICS_EXPORTER" . }}{{ end }}
{{- if include "prefect-otel-agent.isSharded" . }}{{ $_ := set $env "SHARD" (printf "$(POD_NAME)/%d" (int .Values.replicaCount)) }}{{ end }}
{{- $_ := set $env "OTEL_RESOURCE_ATTRIBUTES" (include "prefect-otel-agent.resourceAttributes" .) }}
{{- range $name, $value := .Values.env }}{{ $_ := set $env (upper $name) $value }}{{ end }}
{{- range .Values.extraEnvVars }}{{ $_ := unset $env .name }}{{ end -}}
# Other variables refer to them, so they come first.
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- range $name, $value := $env }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- with .Values.extraEnvVars }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{- define "prefect-otel-agent.prefectEnv" -}}
{{- with .Values.prefectApiUrl }}
PREFECT_API_URL: {{ quote . }}
{{- end }}
{{- if .Values.csrfAuth }}
PREFECT_CSRF_ENABLED: "True"
{{- end }}
{{- if .Values.apiKey.existingSecret }}
PREFECT_API_KEY_FILE: /secrets/prefect-api-key/value
{{- end }}
{{- if .Values.basicAuth.enabled }}
PREFECT_API_AUTH_STRING_FILE: /secrets/prefect-auth-string/value
{{- end }}
{{- if or .Values.prefectTls.existingConfigMap .Values.prefectTls.existingSecret }}
SSL_CERT_FILE: /certificates/prefect/ca.crt
{{- end }}
{{- if not .Values.pagination.enabled }}
PAGINATION_ENABLED: "False"
{{- end }}
{{- if ne (int .Values.pagination.limit) 200 }}
PAGINATION_LIMIT: {{ .Values.pagination.limit | quote }}
{{- end }}
{{- end }}

{{- define "prefect-otel-agent.otlpEnv" -}}
{{- with .Values.otlp }}
{{- with .endpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ quote . }}
{{- end }}
{{- if ne .protocol "http/protobuf" }}
OTEL_EXPORTER_OTLP_PROTOCOL: {{ .protocol }}
{{- end }}
{{- if ne .compression "none" }}
OTEL_EXPORTER_OTLP_COMPRESSION: {{ .compression }}
{{- end }}
{{- if .headers.existingSecret }}
OTEL_EXPORTER_OTLP_HEADERS_FILE: /secrets/otlp-headers/value
{{- end }}
{{- if .tls.existingSecret }}
OTEL_EXPORTER_OTLP_CERTIFICATE: /certificates/otlp/ca.crt
{{- end }}
{{- if .tls.clientCertificate }}
OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: /certificates/otlp/tls.crt
OTEL_EXPORTER_OTLP_CLIENT_KEY: /certificates/otlp/tls.key
{{- end }}
{{- end }}
{{- end }}

{{/*
Where metrics go. The agent pushes if an endpoint is set, by the values or by a variable. If none is, and there is a
file of settings, this is left to the file.
*/}}
{{- define "prefect-otel-agent.exporters" -}}
{{- $given := keys .Values.env | join " " | upper | splitList " " }}
{{- range .Values.extraEnvVars }}{{ $given = append $given .name }}{{ end }}
{{- $push := or .Values.otlp.endpoint (has "OTEL_EXPORTER_OTLP_ENDPOINT" $given) (has "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" $given) }}
{{- $pull := .Values.prometheus.enabled }}
{{- if and $push $pull }}otlp,prometheus
{{- else if $push }}otlp
{{- else if and $pull (include "prefect-otel-agent.hasConfigFile" .) }}
{{- else if $pull }}prometheus
{{- else if not (has "OTEL_METRICS_EXPORTER" $given) }}
{{- fail "metrics go nowhere: set otlp.endpoint or prometheus.enabled" }}
{{- end }}
{{- end }}

{{- define "prefect-otel-agent.resourceAttributes" -}}
{{- $attributes := dict "k8s.namespace.name" "$(POD_NAMESPACE)" "k8s.pod.name" "$(POD_NAME)" }}
{{- $_ := set $attributes "service.instance.id" (include "prefect-otel-agent.instance" (dict "namespace" "$(POD_NAMESPACE)" "pod" "$(POD_NAME)" "context" .)) }}
{{- with .Values.clusterName }}{{ $_ := set $attributes "k8s.cluster.name" . }}{{ end }}
{{- $pairs := list }}
{{- range $key, $value := merge (dict) .Values.resourceAttributes $attributes }}
{{- $pairs = append $pairs (printf "%s=%v" $key $value) }}
{{- end }}
{{- join "," $pairs }}
{{- end }}

{{- define "prefect-otel-agent.hasConfigFile" -}}
{{- with .Values.configFile }}{{ or .existingConfigMap .existingSecret }}{{ end }}
{{- end }}

{{/*
Files from Secrets and ConfigMaps, for the volumes and the mounts: a list of {name, path, secret or
configMap, items}. Without items, all keys are files.
*/}}
{{- define "prefect-otel-agent.files" -}}
{{- $files := list }}
{{- with .Values.apiKey }}{{ if .existingSecret }}
{{- $files = append $files (dict "name" "prefect-api-key" "path" "/secrets/prefect-api-key" "secret" .existingSecret "items" (dict .key "value")) }}
{{- end }}{{ end }}
{{- with .Values.basicAuth }}{{ if .enabled }}
{{- $files = append $files (dict "name" "prefect-auth-string" "path" "/secrets/prefect-auth-string" "secret" .existingSecret "items" (dict "auth-string" "value")) }}
{{- end }}{{ end }}
{{- with .Values.otlp }}
{{- if .headers.existingSecret }}
{{- $files = append $files (dict "name" "otlp-headers" "path" "/secrets/otlp-headers" "secret" .headers.existingSecret "items" (dict .headers.key "value")) }}
{{- end }}
{{- if .tls.existingSecret }}
{{- $items := dict "ca.crt" "ca.crt" }}
{{- if .tls.clientCertificate }}{{ $items = dict "ca.crt" "ca.crt" "tls.crt" "tls.crt" "tls.key" "tls.key" }}{{ end }}
{{- $files = append $files (dict "name" "otlp-tls" "path" "/certificates/otlp" "secret" .tls.existingSecret "items" $items) }}
{{- end }}
{{- end }}
{{- with .Values.prefectTls }}{{ if or .existingConfigMap .existingSecret }}
{{- $files = append $files (dict "name" "prefect-tls" "path" "/certificates/prefect" "secret" .existingSecret "configMap" .existingConfigMap "items" (dict .key "ca.crt")) }}
{{- end }}{{ end }}
{{- with .Values.webConfig }}{{ if .existingSecret }}
{{- $files = append $files (dict "name" "web-config" "path" "/web" "secret" .existingSecret) }}
{{- end }}{{ end }}
{{- with .Values.configFile }}{{ if or .existingConfigMap .existingSecret }}
{{- $files = append $files (dict "name" "config-file" "path" "/config" "secret" .existingSecret "configMap" .existingConfigMap "items" (dict .key .key)) }}
{{- end }}{{ end }}
{{- dict "files" $files | toYaml }}
{{- end }}

{{/* What the endpoint of a ServiceMonitor and that of a PodMonitor have in common. */}}
{{- define "prefect-otel-agent.endpoint" -}}
path: /metrics
{{- if .context.Values.webConfig.tls }}
scheme: https
{{- end }}
{{- with .monitor.tlsConfig }}
tlsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .monitor.basicAuth }}
basicAuth:
  {{- toYaml . | nindent 2 }}
{{- end }}
interval: {{ .monitor.interval }}
scrapeTimeout: {{ .monitor.scrapeTimeout }}
relabelings:
  {{- include "prefect-otel-agent.relabelings" .context | nindent 2 }}
  {{- with .monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The groups of alerts.yml, changed as the values say. Its own braces are Prometheus', and stay. */}}
{{- define "prefect-otel-agent.ruleGroups" -}}
{{- $values := .Values.prometheusRule }}
{{- $unknown := $values.disabledAlerts }}
{{- $groups := list }}
{{- range (.Files.Get "files/alerts.yml" | fromYaml).groups }}
{{- $rules := list }}
{{- range $rule := .rules }}
{{- if .alert }}
{{- $unknown = without $unknown .alert }}
{{- with $values.alertLabels }}{{ $_ := set $rule "labels" (merge (dict) . (default dict $rule.labels)) }}{{ end }}
{{- if and $values.runbookUrl .annotations.runbook_url }}
{{- $_ := set .annotations "runbook_url" (printf "%s/%s" (trimSuffix "/" $values.runbookUrl) (base .annotations.runbook_url)) }}
{{- end }}
{{- end }}
{{- if not (has (default "" .alert) $values.disabledAlerts) }}{{ $rules = append $rules . }}{{ end }}
{{- end }}
{{- if $rules }}{{ $groups = append $groups (set . "rules" $rules) }}{{ end }}
{{- end }}
{{- with $unknown }}
{{- fail (printf "prometheusRule.disabledAlerts: alerts.yml has no %s" (join ", " .)) }}
{{- end }}
{{- with $values.rules }}
{{- $groups = append $groups (dict "name" (include "prefect-otel-agent.fullname" $) "rules" .) }}
{{- end }}
{{- toYaml $groups }}
{{- end }}
