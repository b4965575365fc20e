//! The cycles of each workspace, and the publisher of all of them.

use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};
use tracing::{Instrument as _, Span};

use crate::cycles::{self, Cycles, Shared};
use crate::export::Exporters;
use crate::http::{Readiness, RequestMetrics};
use crate::metrics::Options;
use crate::publisher::{Publisher, Report, Source};
use crate::settings::Settings;

/// The cycles of a workspace. Its name is known if there are several.
pub struct Workspace {
    name: Option<Arc<str>>,
    /// Its cycles.
    pub cycles: Cycles,
}

impl Workspace {
    /// What is logged about one of several workspaces has its name.
    pub fn span(&self) -> Span {
        span(self.name.as_deref())
    }
}

fn span(workspace: Option<&str>) -> Span {
    match workspace {
        Some(name) => tracing::info_span!("sample", workspace = name),
        None => Span::none(),
    }
}

/// All workspaces of an agent.
pub struct Workspaces {
    /// Each of them, in the order of the settings.
    pub all: Vec<Workspace>,
    /// What publishes their reports, in the same order.
    pub publisher: Publisher,
    /// Whether one of them could be read recently.
    pub readiness: Readiness,
}

impl Workspaces {
    /// The workspaces of `settings`. No request is sent to Prefect yet.
    ///
    /// # Errors
    ///
    /// If the client of one of them cannot be built, or `STATE_DIR` cannot be used.
    pub async fn new(
        settings: &Settings,
        options: Arc<Options>,
        exporters: Arc<Exporters>,
        requests: RequestMetrics,
    ) -> Result<Self, cycles::Error> {
        let shared = Shared::new(settings, Arc::clone(&exporters));
        let new = async |place, name: Option<Arc<str>>, settings: &Settings| {
            let options = match &name {
                Some(name) => Arc::new(options.of_workspace(name)),
                None => Arc::clone(&options),
            };
            let source = Source::new(name.as_ref(), Arc::clone(&options), settings);
            let cycles = Cycles::new(settings, options, shared.clone(), place);
            let cycles = cycles.instrument(span(name.as_deref())).await?;
            Ok::<_, cycles::Error>((Workspace { name, cycles }, source))
        };
        let each = settings.each();
        let each = each.iter().enumerate();
        // A disk that does not respond delays the start only once.
        let all = each.map(|(place, (name, settings))| new(place, name.clone(), settings));
        let (all, sources) = try_join_all(all).await?.into_iter().unzip();
        let publications = shared.publications;
        let publisher = Publisher::new(
            settings,
            exporters,
            publications,
            options,
            sources,
            requests,
        );
        Ok(Workspaces {
            all,
            publisher,
            readiness: shared.readiness,
        })
    }

    /// The reports before the first cycle, from the checkpoints.
    pub fn restored(&mut self) -> Vec<Report> {
        let all = self.all.iter_mut();
        all.map(|workspace| workspace.cycles.restored()).collect()
    }

    /// Runs one cycle of each.
    pub async fn cycle(&mut self) -> Vec<Report> {
        let cycles = self.all.iter_mut().map(|workspace| {
            let span = workspace.span();
            workspace.cycles.next().instrument(span)
        });
        join_all(cycles).await
    }
}
