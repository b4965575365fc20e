//! The resource: identifies the agent that the metrics come from.

use std::fs;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use uuid::Uuid;

use crate::blocking::within;
use crate::checkpoint;
use crate::settings::{Cloud, Settings};

const SERVICE_NAME: &str = "service.name";
const INSTANCE_ID: &str = "service.instance.id";

/// The id is derived from the settings if the disk does not respond within this time.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// Attributes that distinguish agents whose Prefect servers have the same URL. Unlike the names of
/// pods, containers and hosts, they stay the same when the agent is replaced.
const DISTINGUISHING: [&str; 6] = [
    SERVICE_NAME,
    "service.namespace",
    "deployment.environment.name",
    "deployment.environment",
    "k8s.cluster.name",
    "k8s.namespace.name",
];

/// `service.name`, `service.version`, `service.instance.id`, the ids of a workspace of Prefect Cloud
/// if it is the only one, and the attributes from the settings, which take precedence. With
/// `STATE_DIR`, the id of the instance is stored there.
pub fn resource(settings: &Settings) -> Resource {
    let own = [
        (SERVICE_NAME, env!("CARGO_PKG_NAME").to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let own = own.map(|(key, value)| KeyValue::new(key, value));
    let cloud = Cloud::at(&settings.prefect.api_url).filter(|_| settings.workspaces.is_empty());
    let cloud = cloud.map(|Cloud { account, workspace }| {
        [
            ("prefect.account.id", account),
            ("prefect.workspace.id", workspace),
        ]
    });
    let cloud = cloud.into_iter().flatten();
    let given = settings.otel.resource.iter().cloned();
    let named = settings
        .otel
        .service_name
        .iter()
        .map(|name| KeyValue::new(SERVICE_NAME, name.clone()));
    let resource = Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own)
        .with_attributes(cloud.map(|(key, value)| KeyValue::new(key, value)))
        .with_attributes(given.map(|(key, value)| KeyValue::new(key, value)))
        .with_attributes(named)
        .build();
    if resource.get(&INSTANCE_ID.into()).is_some() {
        return resource;
    }
    let id = instance_id(settings, &resource).to_string();
    Resource::builder_empty()
        .with_attributes(
            resource
                .iter()
                .map(|(key, value)| KeyValue::new(key.clone(), value.clone())),
        )
        .with_attribute(KeyValue::new(INSTANCE_ID, id))
        .build()
}

/// Stays the same after a restart and in another container, so that series continue instead of new
/// ones appearing alongside the old ones.
/// <https://opentelemetry.io/docs/specs/semconv/registry/attributes/service/#service-instance-id>
fn instance_id(settings: &Settings, resource: &Resource) -> Uuid {
    let made = || {
        name_based(
            settings,
            resource,
            &gethostname::gethostname().to_string_lossy(),
        )
    };
    let Some(folder) = &settings.state_dir else {
        return made();
    };
    let api = checkpoint::api_id(settings.prefect.api_url.as_str());
    let path = folder.join(format!("instance-{api}"));
    let file = path.clone();
    let read = move || kept(&file).map_err(|error| (file.exists(), error));
    let path = path.display();
    match within(DISK_PATIENCE, "instance-id", read) {
        Ok(Ok(id)) => id,
        Ok(Err((true, error))) => {
            tracing::warn!(%path, %error, "STATE_DIR: the file does not contain a valid service.instance.id; delete it and restart the agent. Until then, the id is derived from PREFECT_API_URL and the resource");
            made()
        }
        // The checkpoint logs that the folder cannot be used.
        Ok(Err((false, error))) => {
            tracing::debug!(%path, %error, "cannot store service.instance.id");
            made()
        }
        Err(error) => {
            tracing::warn!(%path, %error, "STATE_DIR: the file with service.instance.id cannot be read; until the agent is restarted, the id is derived from PREFECT_API_URL and the resource");
            made()
        }
    }
}

/// The id in the file at `path`. If there is no file, a new id is stored there; of agents that
/// start at the same time, one creates it.
fn kept(path: &Path) -> io::Result<Uuid> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                checkpoint::create_folder(folder)?;
            }
            let id = format!("{}\n", Uuid::new_v4());
            checkpoint::create(path, id.as_bytes())?;
            parse(&read(path)?)
        }
        text => parse(&text?),
    }
}

/// The beginning of a file, which is all that an id takes.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?
        .take(1_024)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn parse(text: &str) -> io::Result<Uuid> {
    let id = Uuid::try_parse(text.trim());
    id.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// An id derived from the API URL and from the attributes that distinguish agents with the same
/// URL. The host name is included only for a loopback address, which is a different Prefect on each
/// host.
fn name_based(settings: &Settings, resource: &Resource, host: &str) -> Uuid {
    let url = &settings.prefect.api_url;
    let mut name = format!("{url} {}", settings.metrics_address.port());
    for key in DISTINGUISHING {
        if let Some(value) = resource.get(&key.into()) {
            name += &format!(" {key}={value}");
        }
    }
    if let Some(shard) = settings.metrics.shard {
        name += &format!(" {shard}");
    }
    if url.host_str().is_some_and(is_loopback) {
        name += &format!(" {host}");
    }
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
}

/// Whether a URL's host is a loopback address.
fn is_loopback(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sources;

    fn settings(environment: &[(&str, &str)]) -> Settings {
        let environment = environment.iter();
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        Settings::load(&Sources {
            environment: environment.collect(),
            ..Sources::default()
        })
        .unwrap()
    }

    fn id(environment: &[(&str, &str)]) -> String {
        let resource = resource(&settings(environment));
        resource.get(&INSTANCE_ID.into()).unwrap().to_string()
    }

    /// The name-based id on a host.
    fn id_on(host: &str, environment: &[(&str, &str)]) -> Uuid {
        let settings = settings(environment);
        name_based(&settings, &resource(&settings), host)
    }

    const URL: &str = "PREFECT_API_URL";
    const PREFECT: (&str, &str) = (URL, "http://prefect:4200/api");
    const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

    #[test]
    fn a_workspace_of_prefect_cloud_is_named_by_its_ids() {
        let cloud = "https://api.prefect.cloud/api/accounts/a-1/workspaces/w-2/";
        let ids = |environment: &[(&str, &str)]| {
            let resource = resource(&settings(environment));
            let keys = ["prefect.account.id", "prefect.workspace.id"];
            keys.map(|key| resource.get(&key.into()).map(|value| value.to_string()))
        };
        let of_url = [Some("a-1".to_owned()), Some("w-2".to_owned())];
        assert_eq!(ids(&[(URL, cloud)]), of_url);
        assert_eq!(ids(&[PREFECT]), [None, None]);
        let given = (ATTRIBUTES, "prefect.account.id=own");
        assert_eq!(ids(&[(URL, cloud), given])[0].as_deref(), Some("own"));
    }

    #[test]
    fn agents_with_the_same_settings_are_one_agent() {
        for same in [
            &[PREFECT][..],
            &[PREFECT, ("METRICS_PORT", "8000")],
            // The pod's address and name.
            &[PREFECT, ("METRICS_ADDR", "10.1.2.3")],
            &[PREFECT, (ATTRIBUTES, "k8s.pod.name=agent-x7f,host.name=a")],
            &[PREFECT, ("SAMPLE_INTERVAL_SECONDS", "15")],
            &[PREFECT, ("OTEL_METRICS_EXPORTER", "prometheus")],
            &[PREFECT, ("PREFECT_API_KEY", "key")],
            &[(URL, "http://PREFECT:4200/api/")],
        ] {
            assert_eq!(id_on("here", &[PREFECT]), id_on("there", same), "{same:?}");
        }
    }

    #[test]
    fn attributes_that_the_user_sets_distinguish_agents() {
        let all = [
            &[PREFECT][..],
            &[(URL, "http://other:4200/api")],
            &[PREFECT, ("METRICS_PORT", "8001")],
            &[PREFECT, ("OTEL_SERVICE_NAME", "other")],
            &[PREFECT, (ATTRIBUTES, "service.namespace=eu")],
            &[PREFECT, (ATTRIBUTES, "deployment.environment.name=prod")],
            &[PREFECT, (ATTRIBUTES, "k8s.cluster.name=prod")],
            &[PREFECT, (ATTRIBUTES, "k8s.namespace.name=prod")],
        ];
        let ids: std::collections::HashSet<_> = all.iter().map(|of| id_on("here", of)).collect();
        assert_eq!(ids.len(), all.len());
    }

    #[test]
    fn the_host_name_matters_only_for_a_loopback_api() {
        for (url, counts) in [
            ("http://localhost:4200/api", true),
            ("http://LOCALHOST:4200/api", true),
            ("http://prefect.localhost/api", true),
            ("http://127.0.0.1:4200/api", true),
            ("http://127.1.2.3:4200/api", true),
            ("http://[::1]:4200/api", true),
            ("http://0.0.0.0:4200/api", true),
            ("http://prefect:4200/api", false),
            ("http://10.0.0.1:4200/api", false),
            ("http://[fd00::1]:4200/api", false),
            ("http://localhost.example/api", false),
            (
                "https://api.prefect.cloud/api/accounts/a/workspaces/b",
                false,
            ),
        ] {
            let differ = id_on("here", &[(URL, url)]) != id_on("there", &[(URL, url)]);
            assert_eq!(differ, counts, "{url}");
        }
    }

    #[test]
    fn with_a_state_dir_the_id_is_created_once_per_api() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("new");
        let state = ("STATE_DIR", new.to_str().unwrap());
        let first = id(&[PREFECT, state]);
        assert_eq!(Uuid::try_parse(&first).unwrap().get_version_num(), 4);
        let changed = [
            PREFECT,
            state,
            ("METRICS_PORT", "1"),
            ("OTEL_SERVICE_NAME", "x"),
        ];
        assert_eq!(id(&changed), first);
        assert_ne!(id(&[(URL, "http://other/api"), state]), first);
        let other = folder.path().join("other");
        assert_ne!(
            id(&[PREFECT, ("STATE_DIR", other.to_str().unwrap())]),
            first
        );
    }

    #[test]
    fn agents_that_start_at_once_have_the_same_id() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let path = folder.path().join(format!("new/{round}"));
            let start = std::sync::Barrier::new(8);
            let ids: std::collections::HashSet<_> = std::thread::scope(|scope| {
                let agent = || {
                    start.wait();
                    kept(&path).unwrap()
                };
                let agents: Vec<_> = (0..8).map(|_| scope.spawn(agent)).collect();
                agents
                    .into_iter()
                    .map(|agent| agent.join().unwrap())
                    .collect()
            });
            assert_eq!(ids.len(), 1);
        }
        let files = fs::read_dir(folder.path().join("new")).unwrap();
        assert_eq!(files.count(), 20, "nothing else is left there");
    }

    #[test]
    fn an_id_set_by_the_user_takes_precedence_and_is_not_stored() {
        let folder = tempfile::tempdir().unwrap();
        let state = ("STATE_DIR", folder.path().to_str().unwrap());
        let given = (ATTRIBUTES, "service.instance.id=prefect-prod");
        assert_eq!(id(&[PREFECT, state, given]), "prefect-prod");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_id_that_cannot_be_stored_or_read_is_name_based_and_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let by_name = id(&[PREFECT]);
        let no_folder = folder.path().join("file");
        fs::write(&no_folder, "").unwrap();
        assert_eq!(
            id(&[PREFECT, ("STATE_DIR", no_folder.to_str().unwrap())]),
            by_name
        );
        let state = ("STATE_DIR", folder.path().to_str().unwrap());
        id(&[PREFECT, state]);
        let instance = |entry: &fs::DirEntry| entry.file_name() != "file";
        let entries = fs::read_dir(folder.path()).unwrap().map(Result::unwrap);
        let path = entries
            .filter(instance)
            .map(|entry| entry.path())
            .next()
            .unwrap();
        for damaged in [&b""[..], b"\xff\xfe", b"not an id"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(id(&[PREFECT, state]), by_name);
            assert_eq!(fs::read(&path).unwrap(), damaged);
        }
    }
}
