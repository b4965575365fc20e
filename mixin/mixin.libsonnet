// Alerts, recording rules and dashboards of prefect-otel-agent as a mixin. Nothing is said here:
// it is read from alerts.yml, examples/slo-rules.yml and grafana/dashboards.

local setting = '{{ or $externalLabels.prefect_runbooks "docs/runbooks" }}';

{
  _config+:: {
    // The address at which docs/runbooks is kept. If null, the external label prefect_runbooks of
    // Prometheus is.
    runbooks: null,
    // Whether to include the example of service level objectives.
    slo: false,
  },

  local config = $._config,
  local files =
    [importstr '../alerts.yml'] + (if config.slo then [importstr '../examples/slo-rules.yml'] else []),
  local groups = std.flatMap(function(file) std.parseYaml(file).groups, files),
  // The rules that have `field`, by group; groups without any are left out.
  local having(field) = std.filter(
    function(group) group.rules != [],
    [group { rules: std.filter(function(rule) std.objectHas(rule, field), super.rules) } for group in groups]
  ),
  local linked(rule) = rule {
    annotations+: {
      runbook_url: if config.runbooks == null
      then super.runbook_url
      else std.strReplace(super.runbook_url, setting, config.runbooks),
    },
  },

  prometheusAlerts+:: {
    groups+: [
      group { rules: std.map(linked, super.rules) }
      for group in having('alert')
    ],
  },

  prometheusRules+:: {
    groups+: having('record'),
  },

  grafanaDashboards+:: {
    'agent.json': import '../grafana/dashboards/agent.json',
    'deployment.json': import '../grafana/dashboards/deployment.json',
    'overview.json': import '../grafana/dashboards/overview.json',
    'work-pools.json': import '../grafana/dashboards/work-pools.json',
  },
}
