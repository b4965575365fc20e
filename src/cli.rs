//! Arguments.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};

use crate::settings::Sources;
use crate::settings::table::SETTINGS;

/// Version and commit, as `--version` shows them.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("PREFECT_OTEL_AGENT_COMMIT"),
    ")"
);

/// The command, its flags made from the settings.
pub fn command() -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("TOML or YAML file of settings, named as below with underscores: max_retries = 5");
    let flags = SETTINGS.iter().filter_map(|setting| {
        let flag = setting.flag()?;
        let mut help = setting.help.to_owned();
        if let Some(default) = setting.default {
            help = format!("{help} [default: {default}]");
        }
        let flag = Arg::new(setting.name)
            .long(flag)
            .value_name("VALUE")
            .help(help);
        Some(
            flag.action(ArgAction::Set)
                .hide_short_help(setting.name.starts_with("OTEL_")),
        )
    });
    Command::new(env!("CARGO_PKG_NAME"))
        .version(VERSION)
        .about("Samples the API of Prefect 3 into OpenTelemetry metrics: OTLP push, Prometheus pull bridge")
        .after_help(
            "Every flag is also an environment variable: --max-retries is MAX_RETRIES.\n\
             Secrets have no flag: PREFECT_API_KEY, PREFECT_API_AUTH_STRING and OTEL_EXPORTER_OTLP_HEADERS\n\
             are read from the environment, from --config, or from files that PREFECT_API_KEY_FILE\n\
             and so on name.\n\
             Order: defaults < --config < environment < flags. --help shows the OTEL_* settings too.",
        )
        .arg(config)
        .args(flags)
}

/// Settings from arguments and the environment. Ends the process for `--help`, `--version`
/// and arguments that are none.
pub fn sources() -> Sources {
    let matches = command().get_matches();
    let flags = SETTINGS
        .iter()
        .filter(|setting| setting.flag().is_some())
        .filter_map(|setting| {
            let value = matches.get_one::<String>(setting.name)?;
            Some((setting.name.to_owned(), value.clone()))
        });
    Sources {
        file: matches.get_one::<PathBuf>("config").cloned(),
        flags: flags.collect(),
        ..Sources::from_process()
    }
}
