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

If the name of an environment variable looks like a misspelt setting (`SAMPLE_INTERVAL`), a warning suggests the setting.
Warnings are logged at startup, and shown by `check` and `config`.

## OpenTelemetry variables

Variables that start with `OTEL_` follow the OpenTelemetry specification, so that the variables of a whole cluster do not
stop the agent:

- Booleans are true only if the value is `true`, in any case. Any value other than `true` and `false` causes a warning
  and means false.
- Names (exporters, protocols, compression, temporality) are accepted in any case. An unsupported name or number causes a
  warning, and the default is used.
- Endpoints, headers and certificates must be valid. A fallback could send metrics to the wrong place or without
  credentials.
- Other variables of the specification, such as `OTEL_PROPAGATORS` and `OTEL_TRACES_SAMPLER`, have no effect.

## Prefect profile

If `PREFECT_API_URL` is not set by a flag, a variable or the file, the agent uses the active Prefect profile, like Prefect's
client. It looks for the profiles in `PREFECT_PROFILES_PATH`, `$PREFECT_HOME/profiles.toml` or `~/.prefect/profiles.toml`,
in this order. `PREFECT_PROFILE` overrides the active profile. At startup, the agent logs the profile that it uses.

The agent reads these settings from the profile: `PREFECT_API_URL`, `PREFECT_API_KEY`, `PREFECT_API_AUTH_STRING`,
`PREFECT_CLIENT_CUSTOM_HEADERS` and `PREFECT_API_SSL_CERT_FILE`.

- Settings from other sources take precedence over those of the profile. If another source sets the key or the auth
  string, the profile's key and auth string are both ignored.
- If another source sets `PREFECT_API_URL`, or the profile has none, the whole profile is ignored. Unlike Prefect's client,
  the agent never sends a profile's credentials to a URL that is not the profile's.
- An unreadable file or an unknown profile causes a warning.

The agent does not read `.env`, `prefect.toml` or `pyproject.toml`.

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
        _ = write!(help, " `{}_FILE` reads it from a file.", setting.name);
    }
    if setting.is_per_signal() {
        help.push_str(" Can be set per signal (`…_OTLP_METRICS_…`, `…_TRACES_…`, `…_LOGS_…`).");
    }
    vec![
        ("setting", Field::Name(Some(setting.name.to_owned()))),
        ("default", Field::Name(setting.default.map(str::to_owned))),
        ("accepts", Field::Text(setting.accepts.to_owned())),
        ("meaning", Field::Text(help)),
    ]
}
