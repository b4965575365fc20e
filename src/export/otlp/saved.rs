//! In delta temporality, a file in `STATE_DIR` stores how much of the counts in the checkpoint was
//! delivered. Without it, counts would be lost or delivered twice at a restart.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::blocking::Blocking;
use crate::checkpoint;
use crate::metrics::WORKSPACE;

/// The version of the file's format, which is also part of its name.
const VERSION: u32 = 1;

/// A larger file was not written by the agent: 100,000 series take about 30 MB.
const LARGEST: u64 = 512 * 1024 * 1024;

/// The time limit of reading or writing the file.
const PATIENCE: Duration = Duration::from_secs(5);

type Attributes = Map<String, Json>;

/// What earlier processes delivered of a series.
#[derive(Debug, PartialEq)]
pub(super) enum Delivered {
    /// The total delivered, and the time of the last delivery in nanoseconds since 1970.
    Until(f64, u64),
    /// Unknown: the file does not have the family, or the workspace.
    Unknown,
}

/// What was delivered of each family.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Baselines {
    families: HashMap<String, Family>,
    /// The names of the workspaces, if they are known.
    pub(super) workspaces: Option<Vec<Arc<str>>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Family {
    time: u64,
    /// The total of each series, by its attributes as JSON with sorted keys.
    series: HashMap<String, f64>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    prefect_api_url: String,
    /// Which series there are. Older files have neither this nor the workspaces.
    #[serde(default)]
    identity: Option<String>,
    #[serde(default)]
    workspaces: Option<Vec<Arc<str>>>,
    families: Vec<SavedFamily>,
}

#[derive(Serialize, Deserialize)]
struct SavedFamily {
    metric: String,
    time_unix_nano: u64,
    delivered: Vec<(Attributes, f64)>,
}

impl Baselines {
    /// Takes out what was delivered of a series that this process has not seen yet; `None` if
    /// nothing was.
    pub(super) fn take(
        &mut self,
        metric: &str,
        attributes: &Attributes,
        is_first_collection: bool,
    ) -> Option<Delivered> {
        if is_first_collection && self.lacks(attributes) {
            return Some(Delivered::Unknown);
        }
        match self.families.get_mut(metric) {
            Some(family) => {
                let accepted = family.series.remove(&key(attributes))?;
                Some(Delivered::Until(accepted, family.time))
            }
            None => is_first_collection.then_some(Delivered::Unknown),
        }
    }

    /// Whether a series is of a workspace that was not read when they were saved.
    fn lacks(&self, attributes: &Attributes) -> bool {
        let workspace = attributes.get(WORKSPACE).and_then(Json::as_str);
        let known = self.workspaces.as_ref().zip(workspace);
        known.is_some_and(|(known, workspace)| !known.iter().any(|name| **name == *workspace))
    }

    /// Forgets the series of a family that were not taken out. Returns whether there were any.
    pub(super) fn end(&mut self, metric: &str) -> bool {
        let family = self.families.entry(metric.to_owned()).or_default();
        !std::mem::take(&mut family.series).is_empty()
    }

    /// Sets what was delivered of a family.
    pub(super) fn set(&mut self, metric: &str, series: Vec<(Attributes, f64)>, time: u64) {
        let series = series.into_iter();
        let series = series.map(|(attributes, value)| (key(&attributes), value));
        let family = Family {
            time,
            series: series.collect(),
        };
        self.families.insert(metric.to_owned(), family);
    }
}

fn key(attributes: &Attributes) -> String {
    // The maps of `serde_json` are sorted by key.
    Json::Object(attributes.clone()).to_string()
}

/// The file of delivered counts.
#[derive(Debug, Clone)]
pub struct DeliveredFile {
    path: PathBuf,
    prefect_api_url: String,
    identity: String,
    workspaces: Vec<Arc<str>>,
}

impl DeliveredFile {
    /// The file that belongs to the checkpoint for `prefect_api_url`. With another `identity`, there
    /// are other series, of which it is unknown what was delivered; the same applies to
    /// `workspaces` that were not there.
    pub fn new(
        folder: &Path,
        prefect_api_url: &str,
        identity: String,
        workspaces: Vec<Arc<str>>,
    ) -> Self {
        DeliveredFile {
            path: checkpoint::path(folder, "delivered", VERSION, prefect_api_url),
            prefect_api_url: prefect_api_url.to_owned(),
            identity,
            workspaces,
        }
    }

    /// Reads the file. If it cannot be used, it is renamed.
    fn read(&self) -> Result<Baselines, Unusable> {
        match self.load() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Baselines::default()),
            read => read.map_err(|error| {
                let kept = checkpoint::set_aside(&self.path);
                let kept = kept.ok().map(|kept| kept.display().to_string());
                Unusable { error, kept }
            }),
        }
    }

    fn load(&self) -> io::Result<Baselines> {
        let mut text = Vec::new();
        let file = File::open(&self.path)?;
        file.take(LARGEST + 1).read_to_end(&mut text)?;
        if text.len() as u64 > LARGEST {
            return Err(io::Error::other(format!(
                "the file is larger than {LARGEST} bytes"
            )));
        }
        self.decode(&text)
    }

    /// Reads the content of the file.
    pub(super) fn decode(&self, text: &[u8]) -> io::Result<Baselines> {
        let content: Content = serde_json::from_slice(text)?;
        if content.version != VERSION || content.prefect_api_url != self.prefect_api_url {
            let (version, url) = (content.version, content.prefect_api_url);
            return Err(io::Error::other(format!(
                "the file has version {version} and belongs to {url}"
            )));
        }
        let mut baselines = Baselines::default();
        if content.identity.is_some_and(|saved| saved != self.identity) {
            return Ok(baselines);
        }
        baselines.workspaces = content.workspaces;
        for family in content.families {
            baselines.set(&family.metric, family.delivered, family.time_unix_nano);
        }
        Ok(baselines)
    }

    /// The content of the file.
    pub(super) fn encode(&self, baselines: &Baselines) -> serde_json::Result<Vec<u8>> {
        let families = baselines.families.iter().map(|(metric, family)| {
            let series = family.series.iter().filter_map(|(key, value)| {
                let attributes: Attributes = serde_json::from_str(key).ok()?;
                Some((attributes, *value))
            });
            SavedFamily {
                metric: metric.clone(),
                time_unix_nano: family.time,
                delivered: series.collect(),
            }
        });
        serde_json::to_vec(&Content {
            version: VERSION,
            prefect_api_url: self.prefect_api_url.clone(),
            identity: Some(self.identity.clone()),
            workspaces: Some(self.workspaces.clone()),
            families: families.collect(),
        })
    }

    /// Replaces the file.
    ///
    /// # Errors
    ///
    /// If the disk is full or the folder is not writable. The old file is kept.
    fn write(&self, baselines: &Baselines) -> io::Result<()> {
        let text = self.encode(baselines)?;
        if let Some(folder) = self.path.parent() {
            checkpoint::create_folder(folder)?;
        }
        checkpoint::replace(&self.path, &text)
    }
}

/// Why the file cannot be used.
#[derive(Debug)]
struct Unusable {
    error: io::Error,
    /// Its new name, if it was renamed.
    kept: Option<String>,
}

/// The file of delivered counts, on a disk that may stop responding. Only changes are logged.
#[derive(Debug)]
pub(super) struct Saved {
    path: PathBuf,
    file: Blocking<DeliveredFile>,
    is_failing: bool,
}

impl Saved {
    pub(super) fn new(file: DeliveredFile) -> Self {
        Saved {
            path: file.path.clone(),
            file: Blocking::new("delivered", file),
            is_failing: false,
        }
    }

    /// Reads the file. If it cannot be used, nothing is known about earlier deliveries.
    pub(super) async fn read(&mut self) -> Baselines {
        let read = self.file.run(PATIENCE, |file| file.read()).await;
        let path = self.path.display();
        let Unusable { error, kept } = match read {
            Ok(Ok(baselines)) => return baselines,
            Ok(Err(unusable)) => unusable,
            Err(error) => Unusable { error, kept: None },
        };
        tracing::warn!(%path, %error, kept, "STATE_DIR: cannot read the file of delivered counts; deltas continue from the restored counts");
        Baselines::default()
    }

    /// Replaces the file; `false` if that failed.
    pub(super) async fn write(&mut self, baselines: Baselines) -> bool {
        let write = move |file: &mut DeliveredFile| file.write(&baselines);
        let written = self.file.run(PATIENCE, write).await.flatten();
        match &written {
            Err(error) if !self.is_failing => {
                let path = self.path.display();
                tracing::warn!(
                    %path,
                    %error,
                    "STATE_DIR: cannot write the file of delivered counts; if the agent restarts now, some counts are pushed twice"
                );
            }
            _ => {}
        }
        self.is_failing = written.is_err();
        written.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_workspace_that_was_not_there_nothing_is_known() {
        let file = |workspaces: &[&str]| {
            let names = workspaces.iter().map(|name| Arc::from(*name)).collect();
            DeliveredFile::new(Path::new("/nowhere"), "http://a/api", String::new(), names)
        };
        let series = |workspace: &str| {
            let attributes = serde_json::json!({"flow_name": "etl", WORKSPACE: workspace});
            attributes.as_object().cloned().unwrap_or_default()
        };
        let mut delivered = Baselines::default();
        delivered.set("runs", vec![(series("a"), 7.0)], 9);
        let written = file(&["a", "b"]).encode(&delivered).unwrap();
        let mut read = file(&["a", "b", "c"]).decode(&written).unwrap();
        let mut take = |workspace, is_first| read.take("runs", &series(workspace), is_first);
        assert_eq!(take("a", true), Some(Delivered::Until(7.0, 9)));
        assert_eq!(take("b", true), None, "its first run");
        assert_eq!(take("c", true), Some(Delivered::Unknown));
        assert_eq!(take("c", false), None, "a run that was counted later");
    }
}
