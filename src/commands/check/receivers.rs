//! Whether the receivers of metrics, traces and logs accept OTLP.

use std::io::{self, Write};

use super::PATIENCE;
use super::report::{Line, Report};
use crate::export::otlp;
use crate::settings::{Settings, Signal};

pub(super) async fn check<W: Write>(settings: &Settings, report: &mut Report<W>) -> io::Result<()> {
    let otel = &settings.otel;
    let signals = [
        ("OTLP metrics", Signal::Metrics, &otel.otlp_metrics),
        ("OTLP traces", Signal::Traces, &otel.otlp_traces),
        ("OTLP logs", Signal::Logs, &otel.otlp_logs),
    ];
    for (what, signal, otlp) in signals {
        let Some(otlp) = otlp else { continue };
        let endpoint = otlp.shown_endpoint();
        let line = match otlp::probe(otlp, signal, PATIENCE).await {
            Ok(answer) => Line::ok(what, format!("{endpoint} accepts OTLP: {answer}")),
            Err(refusal) => {
                let line = Line::fail(what, format!("{endpoint}: {}", refusal.reason));
                line.hint_if(refusal.hint)
            }
        };
        report.add(line)?;
    }
    if otel.metrics == Default::default() {
        let nothing = "metrics are neither pushed nor served";
        report.add(Line::warn("exporters", nothing).hint(
            "set OTEL_METRICS_EXPORTER to otlp, prometheus or both, and leave OTEL_SDK_DISABLED unset",
        ))?;
    }
    Ok(())
}
