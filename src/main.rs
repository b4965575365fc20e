//! Parses the arguments, runs the command and returns an exit code.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use prefect_otel_agent::agent::{self, Agent};
use prefect_otel_agent::cli::{Invocation, Task};
use prefect_otel_agent::commands::check::{self, Verdict};
use prefect_otel_agent::commands::{config, health, once};
use prefect_otel_agent::settings::Settings;
use prefect_otel_agent::shutdown::Shutdown;
use prefect_otel_agent::{cli, secrets, telemetry};

/// The process could not start or continue, or a check failed.
const FAILURE: u8 = 1;
/// The settings are not valid.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let (task, sources) = match cli::invocation() {
        Invocation::Do(task, sources) => (task, sources),
        // The reader may close the pipe early, as `head` does: this is not a failure.
        Invocation::Print(text) => {
            _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILURE, &error),
    };
    match (task, Settings::load(&sources)) {
        (Task::Check(format), settings) => match runtime.block_on(check::run(settings, format)) {
            Ok(Verdict::Good) => ExitCode::SUCCESS,
            Ok(Verdict::Bad) => ExitCode::from(FAILURE),
            Ok(Verdict::Unusable) => ExitCode::from(USAGE),
            // The reader has closed the pipe, so the result is not known.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(FAILURE),
            Err(error) => fail(FAILURE, &error),
        },
        (Task::Config(format), settings) => match config::run(&sources, settings, format) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(USAGE, &error),
        },
        (_, Err(error)) => fail(USAGE, &error),
        (Task::Run, Ok(settings)) => runtime.block_on(run(settings)),
        (Task::Once(format), Ok(settings)) => {
            match runtime.block_on(once::run(settings, format)) {
                Ok(true) => ExitCode::SUCCESS,
                // The log shows the reason.
                Ok(false) => ExitCode::from(FAILURE),
                Err(error @ once::Error::Settings(_)) => fail(USAGE, &error),
                Err(error) => fail(FAILURE, &error),
            }
        }
        (Task::Health(probe), Ok(settings)) => {
            match runtime.block_on(health::ask(&settings, probe)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(FAILURE, &error),
            }
        }
    }
}

async fn run(settings: Settings) -> ExitCode {
    let telemetry = match telemetry::start(&settings) {
        Ok(telemetry) => telemetry,
        Err(error) => return fail(USAGE, &error),
    };
    let (shutdown, (agent, listener)) = match (Shutdown::on_signals(), Agent::new(&settings).await)
    {
        (Ok(shutdown), Ok(agent)) => (shutdown, agent),
        (Err(error), _) => return fail(FAILURE, &error),
        (_, Err(error @ agent::Error::Settings(_))) => return fail(USAGE, &error),
        (_, Err(error)) => return fail(FAILURE, &error),
    };
    if let Some(profile) = &settings.prefect.profile {
        tracing::info!("PREFECT_API_URL is not set: using the active Prefect {profile}");
    }
    tracing::info!(
        version = cli::VERSION,
        prefect_api_url = %settings.prefect.api_url,
        listening_on = %agent.address(),
        endpoints = agent.security(),
        exporters = %settings.otel.metrics,
        "started"
    );
    agent.run(listener, shutdown).await;
    telemetry.shutdown(Duration::from_secs(1)).await;
    ExitCode::SUCCESS
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    let error = secrets::scrubbed(&error.to_string());
    eprintln!("{}: {error}", env!("CARGO_PKG_NAME"));
    ExitCode::from(code)
}
