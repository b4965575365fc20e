//! Parses the arguments, runs the command and returns an exit code.

#![warn(clippy::print_stderr)]

use std::error::Error;
use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Duration;

use prefect_otel_agent::agent::{self, Agent};
use prefect_otel_agent::cli::{Invocation, Task};
use prefect_otel_agent::commands::check::{self, Verdict};
use prefect_otel_agent::commands::health::{self, Probe};
use prefect_otel_agent::commands::{config, once};
use prefect_otel_agent::settings::{self, Settings, Sources};
use prefect_otel_agent::shutdown::Shutdown;
use prefect_otel_agent::{cli, stdio, telemetry};
use tikv_jemallocator::Jemalloc;
use tracing::field;

/// Series come and go on all threads for months. The arenas of glibc keep what one thread frees and
/// another one would need, so memory grows for hours; those of jemalloc return it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The process could not start or continue, or a check failed.
const FAILURE: u8 = 1;
/// The settings are not valid.
const USAGE: u8 = 2;

/// The last lines of the log must be written within this time: the end of the agent is not delayed.
const LAST_LINES: Duration = Duration::from_millis(200);
/// The same if the last line is an error, which must be seen even on a busy machine.
const LAST_ERROR: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let code = invoke();
    stdio::flush(match code == ExitCode::SUCCESS {
        true => LAST_LINES,
        false => LAST_ERROR,
    });
    code
}

fn invoke() -> ExitCode {
    let (task, sources) = match cli::invocation() {
        Invocation::Do(task, sources) => (task, sources),
        Invocation::Print(text) => return print(&text),
        Invocation::Refuse(error) => {
            stdio::say(error.trim_end());
            return ExitCode::from(USAGE);
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
    let code = runtime.block_on(execute(task, &sources));
    // Dropping it would wait for threads that block, for example while a name is resolved.
    runtime.shutdown_background();
    code
}

async fn execute(task: Task, sources: &Sources) -> ExitCode {
    let settings = || Settings::load(sources);
    match task {
        Task::Health(probe) => health(sources, probe).await,
        Task::Check(format) => match check::run(settings(), format).await {
            Ok(Verdict::Good) => ExitCode::SUCCESS,
            Ok(Verdict::Bad) => ExitCode::from(FAILURE),
            Ok(Verdict::Unusable) => ExitCode::from(USAGE),
            // The reader has closed the pipe, so the result is not known.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(FAILURE),
            Err(error) => cannot_print(&error),
        },
        Task::Config(format) => match config::run(sources, settings(), format) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ config::Error::Settings(_)) => fail(USAGE, &error),
            Err(error) => fail(FAILURE, &error),
        },
        Task::Run => run(sources).await,
        Task::Once(format) => match settings() {
            Ok(settings) => once(settings, format).await,
            Err(error) => fail(USAGE, &error),
        },
    }
}

async fn once(settings: Settings, format: once::Format) -> ExitCode {
    match once::run(settings, format).await {
        Ok(true) => ExitCode::SUCCESS,
        // The log shows the reason.
        Ok(false) => ExitCode::from(FAILURE),
        Err(error @ once::Error::Settings(_)) => fail(USAGE, &error),
        Err(error) => fail(FAILURE, &error),
    }
}

/// Queries a running agent, which uses the last valid values of files. So a file that cannot be read
/// now, or not in time, is no reason to fail.
async fn health(sources: &Sources, probe: Probe) -> ExitCode {
    let (all, patience) = (sources.clone(), Duration::from_secs(1));
    let loading = tokio::task::spawn_blocking(move || Settings::load(&all));
    if let Ok(Ok(Err(error))) = tokio::time::timeout(patience, loading).await
        && !matches!(error, settings::Error::File { .. })
    {
        return fail(USAGE, &error);
    }
    let (address, file) = match Settings::load_endpoint(sources) {
        Ok(endpoint) => endpoint,
        Err(error) => return fail(USAGE, &error),
    };
    match health::ask(address, file.as_deref(), probe).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILURE, &error),
    }
}

async fn run(sources: &Sources) -> ExitCode {
    // Before anything that may block, because the first process of a container ignores signals that
    // it does not handle.
    let mut shutdown = match Shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return fail(FAILURE, &error),
    };
    let sources = sources.clone();
    let loading = tokio::task::spawn_blocking(move || Settings::load(&sources));
    let settings = tokio::select! {
        settings = loading => settings,
        // A file may be on a disk that does not respond.
        () = shutdown.wait() => return ExitCode::SUCCESS,
    };
    match settings {
        Ok(Ok(settings)) => run_with(settings, shutdown).await,
        Ok(Err(error)) => fail(USAGE, &error),
        Err(error) => fail(FAILURE, &error),
    }
}

async fn run_with(settings: Settings, mut shutdown: Shutdown) -> ExitCode {
    let telemetry = match telemetry::start(&settings) {
        Ok(telemetry) => telemetry,
        Err(error) => return fail(USAGE, &error),
    };
    let agent = tokio::select! {
        agent = Agent::new(&settings) => agent,
        // The agent may be waiting for the checkpoint of another one. It has nothing to push yet.
        () = shutdown.wait() => return ExitCode::SUCCESS,
    };
    let (agent, listener) = match agent {
        Ok(agent) => agent,
        Err(error @ agent::Error::Settings(_)) => return fail(USAGE, &error),
        Err(error) => return fail(FAILURE, &error),
    };
    if let Some(profile) = &settings.prefect.profile {
        tracing::info!("PREFECT_API_URL is not set: using the active Prefect {profile}");
    }
    tracing::info!(
        version = cli::VERSION,
        prefect_api_url = settings.workspaces.is_empty().then(|| field::display(&settings.prefect.api_url)),
        workspaces = (!settings.workspaces.is_empty()).then_some(settings.workspaces.len()),
        listening_on = %agent.address(),
        endpoints = agent.security(),
        exporters = %settings.otel.metrics,
        shard = settings.metrics.shard.map(field::display),
        "started"
    );
    let ended = agent.run(listener, shutdown).await;
    telemetry.shutdown(ended.left()).await;
    ExitCode::SUCCESS
}

fn print(text: &str) -> ExitCode {
    match stdio::print(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cannot_print(&error),
    }
}

fn cannot_print(error: &std::io::Error) -> ExitCode {
    stdio::say(&format!("{}: stdout: {error}", env!("CARGO_PKG_NAME")));
    ExitCode::from(FAILURE)
}

fn fail(code: u8, error: &dyn Error) -> ExitCode {
    stdio::say(&format!("{}: {error}", env!("CARGO_PKG_NAME")));
    ExitCode::from(code)
}
