//! Every setting, declared once: its name, its default, the values that it accepts and its meaning.
//!
//! A setting has one name in three spellings: the environment's (`SAMPLE_INTERVAL_SECONDS`),
//! the file's (`sample_interval_seconds`) and the flag's (`--sample-interval-seconds`).

pub use super::setting::{Group, Kind, Setting};

const BOOLEAN: &str = "True, False, true, false, 1 or 0";
const OTEL_BOOLEAN: &str = "true or false, in any case";
const SECONDS: &str = "a whole number of seconds from 1 to 86400";
const NAMES: &str = "comma-separated metric names, such as `prefect.flow_runs.finished` or `prefect_flow_runs_finished_total`; * matches any text, ? one character; each must match a metric";
const BOUNDARIES: &str = "comma-separated, increasing numbers of seconds above 0, at most 100";

type Text = &'static str;

const fn plain(
    group: Group,
    name: Text,
    default: Option<Text>,
    accepts: Text,
    help: Text,
) -> Setting {
    Setting {
        name,
        default,
        accepts,
        help,
        kind: Kind::Plain,
        group,
    }
}

const fn prefect(name: Text, default: Option<Text>, accepts: Text, help: Text) -> Setting {
    plain(Group::Prefect, name, default, accepts, help)
}

const fn sampling(name: Text, default: Option<Text>, accepts: Text, help: Text) -> Setting {
    plain(Group::Sampling, name, default, accepts, help)
}

const fn metrics(name: Text, default: Option<Text>, accepts: Text, help: Text) -> Setting {
    plain(Group::Metrics, name, default, accepts, help)
}

const fn endpoint(name: Text, default: Option<Text>, accepts: Text, help: Text) -> Setting {
    plain(Group::Endpoint, name, default, accepts, help)
}

const fn logging(name: Text, default: Option<Text>, accepts: Text, help: Text) -> Setting {
    plain(Group::Logging, name, default, accepts, help)
}

const fn otel(name: Text, default: Option<Text>, accepts: Text, help: Text) -> Setting {
    plain(Group::OpenTelemetry, name, default, accepts, help)
}

const fn of_kind(kind: Kind, setting: Setting) -> Setting {
    Setting { kind, ..setting }
}

/// Every setting, in the order of the documentation.
pub static SETTINGS: &[Setting] = &[
    prefect(
        "PREFECT_API_URL",
        Some("http://localhost:4200/api"),
        "an http:// or https:// URL without user name, password, query and fragment",
        "URL of the API of a Prefect server or of a Prefect Cloud workspace. If it is not set, the active Prefect profile is used.",
    ),
    of_kind(
        Kind::Secret,
        prefect(
            "PREFECT_API_KEY",
            None,
            "a key of visible ASCII characters",
            "API key, sent as a bearer token. Takes precedence over `PREFECT_API_AUTH_STRING`.",
        ),
    ),
    of_kind(
        Kind::Secret,
        prefect(
            "PREFECT_API_AUTH_STRING",
            None,
            "user:password",
            "User name and password for basic authentication.",
        ),
    ),
    of_kind(
        Kind::Secret,
        prefect(
            "PREFECT_CLIENT_CUSTOM_HEADERS",
            None,
            "a JSON object of header names and values: {\"X-Header\": \"value\"}",
            "Headers added to every request to Prefect. `Authorization` overrides the one derived from the credentials; `User-Agent`, `Prefect-Csrf-Token` and `Prefect-Csrf-Client` are ignored.",
        ),
    ),
    prefect(
        "PREFECT_API_SSL_CERT_FILE",
        None,
        "a readable PEM file with at least one certificate",
        "Certificate authorities used to verify the server's certificate, instead of those of the system.",
    ),
    prefect(
        "PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
        Some("False"),
        "a boolean of Prefect's client, such as True or False",
        "Do not verify the server's certificate, as in Prefect's client. Insecure: the credentials can be intercepted. Prefer `PREFECT_API_SSL_CERT_FILE`.",
    ),
    prefect(
        "PREFECT_API_CLIENT_CERTIFICATE",
        None,
        "a readable PEM file",
        "Client certificate of the agent, for a server or proxy that requires one. Prefect's client has no such setting.",
    ),
    prefect(
        "PREFECT_API_CLIENT_KEY",
        None,
        "a readable PEM file",
        "Private key of the client certificate.",
    ),
    prefect(
        "PREFECT_CSRF_ENABLED",
        Some("False"),
        BOOLEAN,
        "Fetch a CSRF token before the first request. By default, one is fetched only if the server requires it.",
    ),
    prefect(
        "MAX_RETRIES",
        Some("3"),
        "a whole number from 0 to 20",
        "Maximum number of retries of a failed request to Prefect.",
    ),
    prefect(
        "REQUEST_TIMEOUT_SECONDS",
        Some("30"),
        SECONDS,
        "Timeout of a request to Prefect.",
    ),
    prefect(
        "MAX_CONCURRENT_REQUESTS",
        Some("4"),
        "a whole number from 1 to 64",
        "Maximum number of concurrent requests to Prefect. One list, or all lists of runs together, uses at most all but one of them, so that a list that Prefect does not answer does not delay the others (not possible with `1`).",
    ),
    prefect(
        "PAGINATION_ENABLED",
        Some("True"),
        BOOLEAN,
        "Read all pages of a list. If `False`, only the first page is read.",
    ),
    prefect(
        "PAGINATION_LIMIT",
        Some("200"),
        "a whole number from 1 to 1000000",
        "Maximum number of objects per page. If the server allows fewer (200 by default), its limit is used.",
    ),
    sampling(
        "SAMPLE_INTERVAL_SECONDS",
        Some("30"),
        SECONDS,
        "Time between two cycles. Metrics are pushed after each cycle, and during long cycles.",
    ),
    sampling(
        "INVENTORY_INTERVAL_SECONDS",
        Some("60"),
        SECONDS,
        "How often deployments, flows, work pools, work queues, workers, concurrency limits, automations and the run history are read. For a list of more than 1,000 deployments or flows, the interval grows in proportion to its length, up to 120 s.",
    ),
    sampling(
        "SCHEDULED_LOOKAHEAD_MINUTES",
        Some("60"),
        "a whole number of minutes from 0 to 525600, or all",
        "How far ahead scheduled runs are read. `all` reads every scheduled run, as the Python exporter does.",
    ),
    sampling(
        "OFFSET_MINUTES",
        Some("5"),
        "a whole number of minutes from 1 to 10080",
        "Time window of the `prefect_flow_runs_*` and `prefect_info_flow_runs` families.",
    ),
    sampling(
        "FAILED_RUNS_OFFSET_MINUTES",
        Some("10080"),
        "a whole number of minutes from 0 to 525600",
        "Time window of the failed-runs families. 0 disables them.",
    ),
    sampling(
        "FAILED_RUNS_LIMIT",
        Some("10"),
        "a whole number from 1 to 1000",
        "Maximum number of failed runs exported per deployment, flow and state name; the newest are kept.",
    ),
    sampling(
        "TASK_RUNS_ENABLED",
        Some("False"),
        BOOLEAN,
        "Also count task runs (`prefect.task_runs.finished`, `prefect.task_run.duration`). There can be many.",
    ),
    sampling(
        "STATE_DIR",
        None,
        "a writable folder",
        "Folder for the checkpoint and `service.instance.id`. Each API has its own files, which only one agent at a time can use. The folder must outlive the process and its container. With it, counters resume after a restart, and runs that ended in the meantime are counted once. Without it, counters start at zero with the process.",
    ),
    sampling(
        "CATCH_UP_HOURS",
        Some("24"),
        "a whole number of hours from 1 to 720",
        "How far back the agent catches up after a restart or an outage. Runs that ended earlier are not counted.",
    ),
    metrics(
        "METRICS_INCLUDE",
        None,
        NAMES,
        "Metrics to export. If it is not set, all metrics except `prefect_deployment_last_failed_flow_run` are exported.",
    ),
    metrics(
        "METRICS_EXCLUDE",
        None,
        NAMES,
        "Metrics to leave out, applied after `METRICS_INCLUDE`.",
    ),
    metrics(
        "SHARD",
        None,
        "i/n, or the name of a pod that ends in -i, and /n; n from 1 to 64, i from 0 to n-1",
        "The part of the series that this agent exports, if n agents share a workspace (docs/scaling.md): those whose flow and deployment names hash to i. The first agent, 0, also exports the series that name no flow.",
    ),
    metrics(
        "METRICS_ATTRIBUTES",
        None,
        "comma-separated, percent-encoded key=value pairs; keys consist of letters, digits, _ and ., and are not used by any metric",
        "Attributes added to every series: `env=prod,team=data`.",
    ),
    metrics(
        "DEPLOYMENT_TAG_LABELS",
        None,
        "comma-separated keys that consist of letters, digits and _, and are not used by any metric",
        "Deployment tags to add as attributes: with `team,owner`, the tag `team:data` becomes `team=\"data\"`.",
    ),
    metrics(
        "ENABLE_FLOW_RUN_NAME_LABEL",
        Some("False"),
        BOOLEAN,
        "Add the label `flow_run_name` to `prefect_info_flow_runs` and `prefect_flow_runs_ongoing_run_time`.",
    ),
    metrics(
        "RUN_DURATION_BUCKETS_SECONDS",
        Some("1,5,10,30,60,120,300,600,1800,3600,7200,14400,28800,86400"),
        BOUNDARIES,
        "Bucket boundaries of the histograms of flow run and task run durations.",
    ),
    metrics(
        "START_DELAY_BUCKETS_SECONDS",
        Some("1,5,10,30,60,120,300,600,1800,3600,14400"),
        BOUNDARIES,
        "Bucket boundaries of the histogram of start delays.",
    ),
    metrics(
        "METRICS_CARDINALITY_LIMIT",
        Some("50000"),
        "a whole number from 1 to 200000",
        "Maximum number of series per metric of Prefect and workspace; a histogram with all its buckets is one series. Series beyond it are aggregated into one with `otel_metric_overflow=\"true\"`.",
    ),
    endpoint(
        "METRICS_ADDR",
        Some("0.0.0.0"),
        "an IP address",
        "Address to listen on for `/metrics`, `/healthz`, `/readyz` and the status page.",
    ),
    endpoint(
        "METRICS_PORT",
        Some("8000"),
        "a port from 0 to 65535 (0 selects a free port)",
        "Port to listen on for `/metrics`, `/healthz`, `/readyz` and the status page.",
    ),
    endpoint(
        "WEB_CONFIG_FILE",
        None,
        "a readable YAML file in the format of Prometheus' web configuration",
        "TLS, basic authentication and headers of the endpoints on `METRICS_PORT` (docs/deployment.md). The file, the certificate and the key are read again when they change.",
    ),
    of_kind(
        Kind::Secret,
        endpoint(
            "METRICS_BEARER_TOKEN",
            None,
            "a token of visible ASCII characters",
            "Bearer token that clients of the endpoints need, except for `/healthz` and `/readyz`. Users of `WEB_CONFIG_FILE` do not need it.",
        ),
    ),
    logging(
        "LOG_LEVEL",
        Some("INFO"),
        "TRACE, DEBUG, INFO, WARNING, ERROR, CRITICAL or OFF",
        "Minimum severity of log messages. Logs are written to stderr.",
    ),
    logging(
        "LOG_FORMAT",
        Some("text"),
        "text or json",
        "Output format of log messages.",
    ),
    otel(
        "OTEL_METRICS_EXPORTER",
        Some("otlp,prometheus"),
        "otlp, prometheus, console, or a comma-separated list of them, or none",
        "Metrics exporters: `otlp` pushes, `prometheus` serves `/metrics`, `console` writes OTLP JSON to stdout.",
    ),
    otel(
        "OTEL_TRACES_EXPORTER",
        Some("none"),
        "otlp, console, or a comma-separated list of them, or none",
        "Exporters of the agent's own spans. `console` writes OTLP JSON to stdout.",
    ),
    otel(
        "OTEL_LOGS_EXPORTER",
        Some("none"),
        "otlp, console, or a comma-separated list of them, or none",
        "Exporters of the agent's own logs, in addition to stderr. `console` writes OTLP JSON to stdout.",
    ),
    otel(
        "OTEL_SDK_DISABLED",
        Some("false"),
        OTEL_BOOLEAN,
        "If `true`, no exporter is started.",
    ),
    otel(
        "OTEL_SERVICE_NAME",
        None,
        "any text",
        "Resource attribute `service.name`. Default: `prefect-otel-agent`, unless `OTEL_RESOURCE_ATTRIBUTES` sets it.",
    ),
    otel(
        "OTEL_RESOURCE_ATTRIBUTES",
        None,
        "comma-separated, percent-encoded key=value pairs",
        "Additional resource attributes. `service.instance.id`, which is `instance` in Prometheus, can be one of them.",
    ),
    otel(
        "OTEL_METRIC_EXPORT_INTERVAL",
        None,
        "a whole number of milliseconds from 1000 to 86400000",
        "The specification's name for `SAMPLE_INTERVAL_SECONDS`, which takes precedence.",
    ),
    of_kind(
        Kind::PerSignal,
        otel(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            None,
            "an http:// or https:// URL",
            "URL of the collector. Default: `http://localhost:4318` for `http/protobuf`, `http://localhost:4317` for `grpc`. For HTTP, the path `/v1/metrics` is added, unless the endpoint is set for one signal.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        otel(
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            Some("http/protobuf"),
            "http/protobuf or grpc",
            "OTLP transport protocol.",
        ),
    ),
    of_kind(
        Kind::PerSignalSecret,
        otel(
            "OTEL_EXPORTER_OTLP_HEADERS",
            None,
            "comma-separated, percent-encoded key=value pairs",
            "Headers (gRPC: metadata) of each push, for example a token.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        otel(
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            Some("10000"),
            "a whole number of milliseconds from 1 to 600000",
            "Timeout of one message, including retries. Most pushes are one message (see `OTLP_MAX_MESSAGE_BYTES`).",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        otel(
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            Some("none"),
            "gzip or none",
            "Compression of each push.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        otel(
            "OTEL_EXPORTER_OTLP_INSECURE",
            Some("false"),
            OTEL_BOOLEAN,
            "gRPC only: connect without TLS if the endpoint has no scheme.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        otel(
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            None,
            "a readable PEM file",
            "Certificate authorities used to verify the collector's certificate.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        otel(
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            None,
            "a readable PEM file",
            "Client certificate of the agent, for mutual TLS.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        otel(
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            None,
            "a readable PEM file",
            "Private key of the client certificate.",
        ),
    ),
    otel(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        Some("cumulative"),
        "cumulative, delta or lowmemory",
        "Temporality of counters and histograms over OTLP. `lowmemory`: delta for histograms, cumulative for counters.",
    ),
    otel(
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        Some("explicit_bucket_histogram"),
        "explicit_bucket_histogram or base2_exponential_bucket_histogram",
        "Aggregation of histograms over OTLP. On `/metrics`, histograms always have explicit buckets.",
    ),
    otel(
        "OTLP_MAX_MESSAGE_BYTES",
        None,
        "a whole number of bytes from 10000 to 1073741824",
        "Maximum size of an encoded, uncompressed OTLP metrics message. Larger pushes are split. Default: just below 4 MiB, the default limit of a collector for gRPC.",
    ),
];
