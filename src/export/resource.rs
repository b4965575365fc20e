//! The resource: who reports.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use uuid::Uuid;

use crate::settings::Settings;

/// `service.name`, `service.version`, `service.instance.id`, and what the settings say,
/// which wins.
pub fn resource(settings: &Settings) -> Resource {
    let own = [
        KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance_id(settings)),
    ];
    let given = settings.otel.resource.iter().cloned();
    let named = settings
        .otel
        .service_name
        .iter()
        .map(|name| KeyValue::new("service.name", name.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own)
        .with_attributes(given.map(|(key, value)| KeyValue::new(key, value)))
        .with_attributes(named)
        .build()
}

/// The same after a restart, so that its series go on and do not start anew: a name-based
/// UUID, as the semantic conventions allow, of what tells one agent from another.
fn instance_id(settings: &Settings) -> String {
    let host = gethostname::gethostname();
    let name = format!(
        "{} {} {}",
        host.to_string_lossy(),
        settings.prefect.api_url,
        settings.metrics_address
    );
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string()
}
