//! The command line.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use clap_complete::Shell;

use crate::commands::health::Probe;
use crate::commands::{check, config, once};
use crate::docgen::{Format, Reference};
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

/// The subcommands that use the settings. Without a subcommand, the agent runs.
const RUN: &str = "run";
const CHECK: &str = "check";
const ONCE: &str = "once";
const HEALTH: &str = "health";
const CONFIG: &str = "config";

/// The subcommands that print files for shells and for `man`.
const COMPLETIONS: &str = "completions";
const MAN: &str = "man";

/// A flag of `health`.
const READY: &str = "ready";
const FORMAT: &str = "format";
const FILE: &str = "config";
const SHELL: &str = "shell";

/// A subcommand that prints a reference: its name, its description, and the reference.
type ReferenceCommand = (&'static str, &'static str, fn() -> Reference);

const REFERENCES: [ReferenceCommand; 2] = [
    (
        "metrics",
        "Print all metrics that the agent exports",
        metrics::docs::reference,
    ),
    ("settings", "Print all settings", settings::docs::reference),
];

/// What the arguments request.
pub enum Invocation {
    /// Print this text.
    Print(String),
    /// Report that the arguments are not valid.
    Refuse(String),
    /// Run this task with the settings from these sources.
    Do(Task, Sources),
}

/// The tasks that use the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Runs the agent.
    Run,
    /// Checks everything that the agent needs.
    Check(check::Format),
    /// Prints the settings in use.
    Config(Format),
    /// Prints the metrics of one cycle.
    Once(once::Format),
    /// Queries the health of a running agent.
    Health(Probe),
}

/// The command line.
pub fn command() -> Command {
    with_settings(Command::new(env!("CARGO_PKG_NAME")))
        .version(VERSION)
        .about("Exports metrics of Prefect 3: pushes them over OTLP, and serves them for Prometheus")
        .subcommands([
            with_settings(Command::new(RUN)).about("Run the agent (the default)"),
            with_settings(Command::new(CHECK))
                .about("Check the settings, Prefect, the exporters, the port and STATE_DIR; exit with 0 if nothing fails")
                .arg(format(&check::Format::ALL.map(|(name, _)| name))),
            with_settings(Command::new(CONFIG))
                .about("Print the value and the source of each setting, with secrets masked")
                .arg(format(&config::FORMATS.map(|(name, _)| name))),
            with_settings(Command::new(ONCE))
                .about("Run one cycle and print its metrics")
                .arg(format(&once::Format::ALL.map(|(name, _)| name))),
            with_settings(Command::new(HEALTH))
                .about("Query whether the agent on this machine is running; exit with 0 if it is")
                .arg(
                    Arg::new(READY)
                        .long(READY)
                        .action(ArgAction::SetTrue)
                        .help("Query whether it has read Prefect recently (/readyz instead of /healthz)"),
                ),
        ])
        .subcommands(REFERENCES.map(|(name, about, _)| {
            let formats = Format::ALL.map(|(name, _)| name);
            Command::new(name).about(about).arg(format(&formats))
        }))
        .subcommand(
            Command::new(COMPLETIONS)
                .about("Print a shell completion script")
                .arg(
                    Arg::new(SHELL)
                        .required(true)
                        .value_parser(clap::value_parser!(Shell)),
                ),
        )
        .subcommand(Command::new(MAN).about("Print the manual page"))
}

/// Adds a flag for each setting. Every subcommand that uses the settings has these flags, so that
/// they can be written before or after its name.
fn with_settings(command: Command) -> Command {
    let file = Arg::new(FILE)
        .long(FILE)
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("TOML or YAML file with settings in snake case: max_retries = 5");
    let flags = SETTINGS.iter().filter_map(|setting| {
        let mut help = setting.help.to_owned();
        if let Some(default) = setting.default {
            help = format!("{help} [default: {default}]");
        }
        let flag = Arg::new(setting.name)
            .long(setting.flag()?)
            .value_name("VALUE")
            .help_heading(setting.group.title())
            .help(help);
        Some(flag.hide_short_help(setting.name.starts_with("OTEL_")))
    });
    command.arg(file).args(flags).after_help(
        "Every flag is also an environment variable: --max-retries is MAX_RETRIES. Secrets have no \
         flags: set them in the environment, in the file of --config, or in a file whose path is in \
         a variable such as PREFECT_API_KEY_FILE.\n\n\
         Order of precedence: flags, environment, --config, the active Prefect profile (if nothing \
         else sets PREFECT_API_URL), defaults.",
    )
}

fn format(names: &[&'static str]) -> Arg {
    Arg::new(FORMAT)
        .long(FORMAT)
        .value_name("FORMAT")
        .value_parser(names.to_vec())
        .default_value(names.first().copied().unwrap_or_default())
        .help("Output format")
}

/// What the arguments request.
pub fn invocation() -> Invocation {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => return Invocation::Refuse(error.render().to_string()),
        // `--help` and `--version`.
        Err(text) => return Invocation::Print(text.render().to_string()),
    };
    let Some((name, arguments)) = matches.subcommand() else {
        return Invocation::Do(Task::Run, sources(&[&matches]));
    };
    let task = match name {
        RUN => Task::Run,
        CHECK => Task::Check(named(&check::Format::ALL, arguments)),
        CONFIG => Task::Config(named(&config::FORMATS, arguments)),
        ONCE => Task::Once(named(&once::Format::ALL, arguments)),
        HEALTH if arguments.get_flag(READY) => Task::Health(Probe::Ready),
        HEALTH => Task::Health(Probe::Live),
        COMPLETIONS => return Invocation::Print(completions(arguments)),
        MAN => return Invocation::Print(manual()),
        reference => return Invocation::Print(printed(reference, arguments)),
    };
    Invocation::Do(task, sources(&[arguments, &matches]))
}

/// The sources of the settings: the environment, the file and the flags. If a flag occurs in
/// several `matches`, the first one takes precedence.
fn sources(matches: &[&ArgMatches]) -> Sources {
    let value = |name: &str| matches.iter().find_map(|all| all.get_one::<String>(name));
    let flags = SETTINGS.iter().filter(|setting| setting.flag().is_some());
    let flags = flags.filter_map(|setting| {
        let value = value(setting.name)?;
        Some((setting.name.to_owned(), value.clone()))
    });
    let mut files = matches.iter().map(|all| all.get_one::<PathBuf>(FILE));
    Sources {
        file: files.find_map(|file| file.cloned()),
        flags: flags.collect(),
        ..Sources::from_process()
    }
}

/// The completion script of a shell.
fn completions(arguments: &ArgMatches) -> String {
    let mut script = Vec::new();
    if let Some(shell) = arguments.get_one::<Shell>(SHELL) {
        clap_complete::generate(*shell, &mut command(), env!("CARGO_PKG_NAME"), &mut script);
    }
    String::from_utf8_lossy(&script).into_owned()
}

/// The manual page, for `man`.
fn manual() -> String {
    let mut page = Vec::new();
    // Writing to memory does not fail.
    _ = clap_mangen::Man::new(command()).render(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

/// The text of the reference `name`.
fn printed(name: &str, arguments: &ArgMatches) -> String {
    let format = named(&Format::ALL, arguments);
    let reference = REFERENCES.into_iter().find(|(known, ..)| *known == name);
    let text = reference.map(|(_, _, reference)| reference().render(format));
    text.unwrap_or_default()
}

/// The format in `arguments`; the first of `all` is the default.
fn named<T: Copy, const N: usize>(all: &[(&str, T); N], arguments: &ArgMatches) -> T {
    let wanted = arguments.get_one::<String>(FORMAT);
    let format = all
        .iter()
        .find(|(name, _)| wanted.is_some_and(|wanted| wanted == name));
    format.unwrap_or(&all[0]).1
}
