//! The reference of the settings, made from their declarations.

use std::fmt::Write as _;

use super::table::{SETTINGS, Setting};
use crate::docgen::{Field, Reference, Row};

const INTRODUCTION: &str = "\
Written by `prefect-otel-agent settings --format markdown`, from the declarations in `src/settings/table.rs`.
`prefect-otel-agent config` prints the value of each setting and where it comes from, with secrets masked.

## Sources

A setting has one name in three spellings: `MAX_RETRIES` in the environment, `max_retries = 3` in the file,
`--max-retries 3` as a flag. Sources in order of precedence, highest first:

1. flags; secrets have none
2. environment variables; an empty one counts as not set. `NAME_FILE` reads the secret `NAME` from a file
3. the file of `--config` (TOML or YAML)
4. the active Prefect profile, if no other source sets `PREFECT_API_URL`
5. defaults

Booleans are `True`/`False`, `true`/`false` or `1`/`0`. With an invalid value, or an unknown key in the file, the agent
does not start: exit code 2, and one line that names it.

An environment variable whose name is probably misspelt (`SAMPLE_INTERVAL`) is a warning that names the setting. Warnings
are logged at the start, and printed by `config`.

## OpenTelemetry variables

Variables that start with `OTEL_` follow the OpenTelemetry specification, so that the variables of a whole cluster do not
stop the agent:

- Booleans are true only for `true`, in any case. Any other value than `false` is a warning, and false.
- Names of exporters, protocols and so on are accepted in any case. One that the agent does not support is a warning, and
  the default is used. The same goes for a number that cannot be used.
- Endpoints, headers and certificates must be valid: without them, metrics would go elsewhere, or without a credential.
- Other variables of the specification (`OTEL_PROPAGATORS`, `OTEL_TRACES_SAMPLER`) have no effect.

## Prefect profile

If neither a flag, the environment nor the file sets `PREFECT_API_URL`, the agent reads the active Prefect profile, as
Prefect's client does, from `PREFECT_PROFILES_PATH`, `$PREFECT_HOME/profiles.toml` or `~/.prefect/profiles.toml`.
`PREFECT_PROFILE` selects another profile than the active one. The agent logs at the start which profile it uses.

From a profile with a `PREFECT_API_URL`, the agent takes `PREFECT_API_URL`, `PREFECT_API_KEY`, `PREFECT_API_AUTH_STRING`,
`PREFECT_CLIENT_CUSTOM_HEADERS` and `PREFECT_API_SSL_CERT_FILE`. Each of them that another source sets as well comes from
there; if another source sets the key or the auth string, both are ignored in the profile. If another source sets
`PREFECT_API_URL`, nothing is taken from the profile, unlike in Prefect's client: the profile's credentials are sent only
to the profile's URL. A profile without `PREFECT_API_URL` is ignored. A file that cannot be read and a profile that does
not exist are a warning.

The agent does not read `.env`, `prefect.toml` and `pyproject.toml`.

## Reference";

/// The reference of every setting.
pub fn reference() -> Reference {
    Reference {
        title: "Settings",
        introduction: INTRODUCTION,
        rows: SETTINGS.iter().map(row).collect(),
    }
}

fn row(setting: &Setting) -> Row {
    let mut help = setting.help.to_owned();
    if setting.is_secret() {
        _ = write!(help, " Or `{}_FILE`: a file that holds it.", setting.name);
    }
    if setting.is_per_signal() {
        help.push_str(" Also for one signal (`…_OTLP_METRICS_…`, `…_TRACES_…`, `…_LOGS_…`).");
    }
    vec![
        ("setting", Field::Name(Some(setting.name.to_owned()))),
        ("default", Field::Name(setting.default.map(str::to_owned))),
        ("accepts", Field::Text(setting.accepts.to_owned())),
        ("meaning", Field::Text(help)),
    ]
}
