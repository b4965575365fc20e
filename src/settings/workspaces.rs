//! The workspaces of an agent that reads several.

use std::sync::Arc;

use super::prefect::{self, Prefect};
use super::{Error, Reader};

/// The fewest concurrent requests of a workspace: a list that Prefect does not answer does not stop
/// the others.
const FEWEST_REQUESTS: usize = 2;

/// One of several workspaces.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Its name, which no other workspace has.
    pub name: Arc<str>,
    /// How to connect to it.
    pub prefect: Prefect,
}

pub(super) fn load(reader: &Reader) -> Result<Vec<Workspace>, Error> {
    let tables = reader.merged.workspaces.iter();
    let all = tables.map(|table| {
        let own = Reader::of(reader.merged.of_workspace(table));
        let prefect = prefect::load(&own)?;
        for warning in own.warnings.into_inner() {
            reader.warn(format!("workspace {:?}: {warning}", table.name));
        }
        Ok(Workspace {
            name: Arc::from(table.name.as_str()),
            prefect,
        })
    });
    let mut all: Vec<_> = all.collect::<Result<_, _>>()?;
    share_servers(&mut all);
    Ok(all)
}

/// Divides the concurrent requests to a server among its workspaces, so that none of them takes
/// those of another.
fn share_servers(all: &mut [Workspace]) {
    let origins: Vec<_> = { all.iter() }
        .map(|workspace| workspace.prefect.api_url.origin())
        .collect();
    for (Workspace { prefect, .. }, own) in all.iter_mut().zip(&origins) {
        let sharing = origins.iter().filter(|origin| *origin == own).count();
        let part = prefect.max_concurrent_requests.checked_div(sharing);
        let part = part.unwrap_or_default().max(FEWEST_REQUESTS);
        prefect.max_concurrent_requests = part.min(prefect.max_concurrent_requests);
    }
}
