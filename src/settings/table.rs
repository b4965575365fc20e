//! Every setting, declared once: its name, default, what it accepts and what it means.
//!
//! A setting has one name in three spellings: the environment's (`SAMPLE_INTERVAL_SECONDS`),
//! the file's (`sample_interval_seconds`) and the flag's (`--sample-interval-seconds`).

/// A setting as declared.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The environment's spelling.
    pub name: &'static str,
    /// The default.
    pub default: Option<&'static str>,
    /// What a value may be: the end of an error message.
    pub accepts: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// What sort of setting it is.
    pub kind: Kind,
}

/// What sets a setting apart from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// Never printed, never a flag; `NAME_FILE` reads it from a file.
    Secret,
    /// Of the OpenTelemetry specification; `OTEL_EXPORTER_OTLP_X` can be set for one signal
    /// by `OTEL_EXPORTER_OTLP_METRICS_X`, `…_TRACES_X` or `…_LOGS_X`.
    PerSignal,
    /// The same, and a secret.
    PerSignalSecret,
}

impl Setting {
    /// Whether its value may never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::PerSignalSecret)
    }

    /// Whether it can be set for one signal.
    pub fn is_per_signal(&self) -> bool {
        matches!(self.kind, Kind::PerSignal | Kind::PerSignalSecret)
    }

    /// Every name under which it is known: its own, those for one signal, those of files.
    pub fn names(&self) -> Vec<String> {
        let mut names = vec![self.name.to_owned()];
        if self.is_per_signal() {
            names.extend(super::SIGNALS.map(|signal| for_signal(self.name, signal)));
        }
        if self.is_secret() {
            let files: Vec<_> = names.iter().map(|name| format!("{name}_FILE")).collect();
            names.extend(files);
        }
        names
    }

    /// The flag's spelling, without the dashes in front; secrets have none, since arguments
    /// show in the list of processes.
    pub fn flag(&self) -> Option<String> {
        (!self.is_secret()).then(|| self.name.to_ascii_lowercase().replace('_', "-"))
    }
}

/// `OTEL_EXPORTER_OTLP_X` for one signal.
pub(super) fn for_signal(name: &str, signal: &str) -> String {
    name.replacen(
        "OTEL_EXPORTER_OTLP_",
        &format!("OTEL_EXPORTER_OTLP_{signal}_"),
        1,
    )
}

const BOOLEAN: &str = "True, False, true, false, 1 or 0";
const SECONDS: &str = "a whole number of seconds from 1 to 86400";

const NAMES: &str = "names of metrics, comma-separated, as `prefect.flow_runs.finished` or as `prefect_flow_runs_finished_total`; * stands for any text, ? for one character; each matches some metric";
const BOUNDARIES: &str = "numbers of seconds above 0, comma-separated, rising, at most 100";

const fn plain(
    name: &'static str,
    default: Option<&'static str>,
    accepts: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        default,
        accepts,
        help,
        kind: Kind::Plain,
    }
}

const fn of_kind(kind: Kind, setting: Setting) -> Setting {
    Setting { kind, ..setting }
}

/// Every setting, in the order of the documentation.
pub static SETTINGS: &[Setting] = &[
    plain(
        "PREFECT_API_URL",
        Some("http://localhost:4200/api"),
        "an http:// or https:// URL without user name and password",
        "The API of a Prefect server or of a Prefect Cloud workspace.",
    ),
    of_kind(
        Kind::Secret,
        plain(
            "PREFECT_API_KEY",
            None,
            "a key of visible ASCII characters",
            "API key, sent as a bearer token. It takes precedence over `PREFECT_API_AUTH_STRING`.",
        ),
    ),
    of_kind(
        Kind::Secret,
        plain(
            "PREFECT_API_AUTH_STRING",
            None,
            "user:password",
            "User and password for basic authentication.",
        ),
    ),
    plain(
        "PREFECT_CSRF_ENABLED",
        Some("False"),
        BOOLEAN,
        "Fetch a CSRF token before the first request. Otherwise one is fetched when the server asks for it.",
    ),
    plain(
        "MAX_RETRIES",
        Some("3"),
        "a whole number from 0 to 20",
        "How often a failed request is tried again.",
    ),
    plain(
        "REQUEST_TIMEOUT_SECONDS",
        Some("30"),
        SECONDS,
        "Time-out of one request to Prefect.",
    ),
    plain(
        "MAX_CONCURRENT_REQUESTS",
        Some("4"),
        "a whole number from 1 to 64",
        "Requests to Prefect at one time.",
    ),
    plain(
        "PAGINATION_ENABLED",
        Some("True"),
        BOOLEAN,
        "Read every page of a list. `False` reads only the first.",
    ),
    plain(
        "PAGINATION_LIMIT",
        Some("200"),
        "a whole number from 1 to 1000000",
        "Objects per page. If the server allows fewer (200 by default), its own limit is used.",
    ),
    plain(
        "SAMPLE_INTERVAL_SECONDS",
        None,
        SECONDS,
        "Time between two cycles; 30 if neither it nor `OTEL_METRIC_EXPORT_INTERVAL` is set. Metrics are pushed at the end of each cycle, and in between if a cycle takes long.",
    ),
    plain(
        "INVENTORY_INTERVAL_SECONDS",
        Some("60"),
        SECONDS,
        "Time between two readings of deployments, flows, work pools, work queues, workers, concurrency limits, automations and the run history.",
    ),
    plain(
        "SCHEDULED_LOOKAHEAD_MINUTES",
        Some("60"),
        "a whole number of minutes from 0 to 525600, or all",
        "Runs scheduled farther ahead are not read. `all` reads every scheduled run, as the Python exporter does.",
    ),
    plain(
        "OFFSET_MINUTES",
        Some("5"),
        "a whole number of minutes from 1 to 10080",
        "The window of the `prefect_flow_runs_*` and `prefect_info_flow_runs` families.",
    ),
    plain(
        "FAILED_RUNS_OFFSET_MINUTES",
        Some("10080"),
        "a whole number of minutes from 0 to 525600",
        "The window of the failed-runs families. 0 turns them off.",
    ),
    plain(
        "FAILED_RUNS_LIMIT",
        Some("10"),
        "a whole number from 1 to 1000",
        "Newest failed runs shown for each deployment, flow and state name.",
    ),
    plain(
        "ENABLE_FLOW_RUN_NAME_LABEL",
        Some("False"),
        BOOLEAN,
        "Add the label `flow_run_name` to `prefect_info_flow_runs` and `prefect_flow_runs_ongoing_run_time`.",
    ),
    plain(
        "TASK_RUNS_ENABLED",
        Some("False"),
        BOOLEAN,
        "Count task runs too (`prefect.task_runs.finished`, `prefect.task_run.duration`). They can be many.",
    ),
    plain(
        "STATE_DIR",
        None,
        "a folder that can be written to",
        "Where the checkpoint and `service.instance.id` are kept, in files for each API; one agent at a time can use them. It has to outlive the process and its container. Counters resume after a restart, and runs that ended in the meantime are counted, once. Without it, counters start at zero with the process.",
    ),
    plain(
        "CATCH_UP_HOURS",
        Some("24"),
        "a whole number of hours from 1 to 720",
        "How far back a restart or an outage is caught up: runs that ended earlier are not counted.",
    ),
    plain(
        "METRICS_INCLUDE",
        None,
        NAMES,
        "The metrics to export. If it is not set: all but `prefect_deployment_last_failed_flow_run`.",
    ),
    plain(
        "METRICS_EXCLUDE",
        None,
        NAMES,
        "Metrics not to export, of those that `METRICS_INCLUDE` lets through.",
    ),
    plain(
        "METRICS_ATTRIBUTES",
        None,
        "key=value pairs, comma-separated, percent-encoded; keys of letters, digits, _ and . that no metric has",
        "Attributes for every series: `env=prod,team=data`.",
    ),
    plain(
        "DEPLOYMENT_TAG_LABELS",
        None,
        "keys, comma-separated, of letters, digits and _, that no metric has",
        "Tags of deployments that become attributes of their series: with `team,owner` a tag `team:data` becomes `team=\"data\"`.",
    ),
    plain(
        "RUN_DURATION_BUCKETS_SECONDS",
        Some("1,5,10,30,60,120,300,600,1800,3600,7200,14400,28800,86400"),
        BOUNDARIES,
        "Bucket boundaries of the histograms of flow-run and task-run durations.",
    ),
    plain(
        "START_DELAY_BUCKETS_SECONDS",
        Some("1,5,10,30,60,120,300,600,1800,3600,14400"),
        BOUNDARIES,
        "Bucket boundaries of the histogram of start delays.",
    ),
    plain(
        "METRICS_CARDINALITY_LIMIT",
        Some("50000"),
        "a whole number from 1 to 10000000",
        "Largest number of series of a metric. Those beyond it are added up in one series with `otel_metric_overflow=\"true\"`.",
    ),
    plain(
        "METRICS_ADDR",
        Some("0.0.0.0"),
        "an IP address",
        "Where `/metrics`, `/healthz` and `/readyz` are served.",
    ),
    plain(
        "METRICS_PORT",
        Some("8000"),
        "a port from 0 to 65535 (0 takes a free one)",
        "Port of `/metrics`, `/healthz` and `/readyz`.",
    ),
    plain(
        "LOG_LEVEL",
        Some("INFO"),
        "TRACE, DEBUG, INFO, WARNING, ERROR, CRITICAL or OFF",
        "How much is logged on stderr.",
    ),
    plain(
        "LOG_FORMAT",
        Some("text"),
        "text or json",
        "How it is logged.",
    ),
    plain(
        "OTEL_METRICS_EXPORTER",
        Some("otlp,prometheus"),
        "otlp, prometheus, console, or a comma-separated list of them, or none",
        "Where metrics go: `otlp` pushes, `prometheus` serves `/metrics`, `console` prints.",
    ),
    plain(
        "OTEL_TRACES_EXPORTER",
        Some("none"),
        "otlp or none",
        "Where the agent's own spans go.",
    ),
    plain(
        "OTEL_LOGS_EXPORTER",
        Some("none"),
        "otlp or none",
        "Where the agent's own logs go besides stderr.",
    ),
    plain(
        "OTEL_SDK_DISABLED",
        Some("false"),
        BOOLEAN,
        "`true` turns every exporter off.",
    ),
    plain(
        "OTEL_SERVICE_NAME",
        None,
        "any text",
        "Resource attribute `service.name`; `prefect-otel-agent` if neither it nor `OTEL_RESOURCE_ATTRIBUTES` sets it.",
    ),
    plain(
        "OTEL_RESOURCE_ATTRIBUTES",
        None,
        "key=value pairs, comma-separated, percent-encoded",
        "More resource attributes. `service.instance.id`, Prometheus' `instance`, can be one of them.",
    ),
    plain(
        "OTEL_METRIC_EXPORT_INTERVAL",
        None,
        "a whole number of milliseconds from 1000 to 86400000",
        "The standard's name for `SAMPLE_INTERVAL_SECONDS`, which takes precedence.",
    ),
    of_kind(
        Kind::PerSignal,
        plain(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            None,
            "an http:// or https:// URL",
            "The collector: `http://localhost:4318` for `http/protobuf`, `http://localhost:4317` for `grpc`. Over HTTP, `/v1/metrics` is added, except to an endpoint of one signal.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        plain(
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            Some("http/protobuf"),
            "http/protobuf or grpc",
            "How OTLP travels.",
        ),
    ),
    of_kind(
        Kind::PerSignalSecret,
        plain(
            "OTEL_EXPORTER_OTLP_HEADERS",
            None,
            "key=value pairs, comma-separated, percent-encoded",
            "Headers (gRPC: metadata) of each push; often a token.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        plain(
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            Some("10000"),
            "a whole number of milliseconds from 1 to 600000",
            "Time-out of one message of a push, retries included. Most pushes are one message (`OTLP_MAX_MESSAGE_BYTES`).",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        plain(
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            Some("none"),
            "gzip or none",
            "Compression of each push.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        plain(
            "OTEL_EXPORTER_OTLP_INSECURE",
            Some("false"),
            BOOLEAN,
            "gRPC only: connect without TLS to an endpoint without a scheme.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        plain(
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            None,
            "a readable PEM file",
            "Certificates of the authorities that the collector's certificate is checked against.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        plain(
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            None,
            "a readable PEM file",
            "The agent's own certificate, for mutual TLS.",
        ),
    ),
    of_kind(
        Kind::PerSignal,
        plain(
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            None,
            "a readable PEM file",
            "Its private key.",
        ),
    ),
    plain(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        Some("cumulative"),
        "cumulative, delta or lowmemory",
        "Temporality of counters and histograms over OTLP. `lowmemory`: delta for histograms, cumulative for counters.",
    ),
    plain(
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        Some("explicit_bucket_histogram"),
        "explicit_bucket_histogram or base2_exponential_bucket_histogram",
        "Aggregation of histograms over OTLP. `/metrics` has explicit buckets either way.",
    ),
    plain(
        "OTLP_MAX_MESSAGE_BYTES",
        None,
        "a whole number of bytes from 10000 to 1073741824",
        "Largest message of metrics over OTLP, encoded and uncompressed; a larger push is divided. If it is not set, just below the limit of an unmodified collector: 4 MiB over gRPC, 20 MiB over HTTP.",
    ),
];
