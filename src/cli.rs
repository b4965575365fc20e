//! Arguments.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};

use crate::docgen::{Format, Reference};
use crate::health::Probe;
use crate::metrics;
use crate::settings::table::SETTINGS;
use crate::settings::{self, Sources};

/// Version and commit, as `--version` shows them.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("PREFECT_OTEL_AGENT_COMMIT"),
    ")"
);

/// A subcommand: its name, what it is for, what it prints.
type Subcommand = (&'static str, &'static str, fn() -> Reference);

/// Subcommands that print what the program declares.
const REFERENCES: [Subcommand; 2] = [
    (
        "metrics",
        "Prints every metric that the agent exports",
        metrics::docs::reference,
    ),
    (
        "settings",
        "Prints every setting",
        settings::docs::reference,
    ),
];

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
        .args_conflicts_with_subcommands(true)
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
        .subcommands(REFERENCES.map(|(name, about, _)| {
            let format = Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(Format::ALL.map(|(name, _)| name))
                .default_value(Format::ALL[0].0)
                .help("How it is written");
            Command::new(name).about(about).arg(format)
        }))
        .subcommand(
            Command::new(HEALTH)
                .about("Asks the agent on this machine whether it runs: exit code 0 or 1")
                .arg(
                    Arg::new(READY)
                        .long(READY)
                        .action(ArgAction::SetTrue)
                        .help("Asks whether it has read Prefect recently (/readyz, not /healthz)"),
                ),
        )
}

/// The subcommand that asks a running agent, for containers without a shell.
const HEALTH: &str = "health";
const READY: &str = "ready";

/// What is asked of the program.
pub enum Invocation {
    /// To run, with settings from these sources.
    Run(Sources),
    /// To print this.
    Print(String),
    /// To ask this of the agent that runs with these settings.
    Health(Probe, Sources),
}

/// What arguments and environment ask for. Ends the process for `--help`, `--version` and
/// arguments that are none.
pub fn invocation() -> Invocation {
    let matches = command().get_matches();
    if let Some((name, arguments)) = matches.subcommand() {
        if name == HEALTH {
            let probe = match arguments.get_flag(READY) {
                true => Probe::Ready,
                false => Probe::Live,
            };
            return Invocation::Health(probe, Sources::from_process());
        }
        let wanted = arguments.get_one::<String>("format");
        let format = Format::ALL
            .into_iter()
            .find(|(name, _)| wanted.is_some_and(|wanted| wanted == name))
            .map_or(Format::Table, |(_, format)| format);
        let reference = REFERENCES.into_iter().find(|(known, ..)| *known == name);
        let text = reference.map(|(_, _, reference)| reference().render(format));
        return Invocation::Print(text.unwrap_or_default());
    }
    let flags = SETTINGS
        .iter()
        .filter(|setting| setting.flag().is_some())
        .filter_map(|setting| {
            let value = matches.get_one::<String>(setting.name)?;
            Some((setting.name.to_owned(), value.clone()))
        });
    Invocation::Run(Sources {
        file: matches.get_one::<PathBuf>("config").cloned(),
        flags: flags.collect(),
        ..Sources::from_process()
    })
}
