//! The samples of counters, and their increase computed in three ways: by Prometheus' rule,
//! implemented here, by the running Prometheus, and by promtool.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::page::Labels;
use super::programs::Prometheus;
use super::stack::run;

/// The samples of each series, with their times in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) series: Vec<(Labels, Vec<(i64, f64)>)>,
}

impl Samples {
    /// All samples of `selector` in Prometheus within the last hour.
    pub(crate) fn of(prometheus: &Prometheus, selector: &str) -> Self {
        let query = format!("{selector}[1h]");
        let data = prometheus
            .get("/api/v1/query", &[("query", &query)])
            .unwrap();
        assert_eq!(data["resultType"], "matrix", "{query}");
        let series = data["result"].as_array().unwrap().iter().map(|series| {
            let labels = serde_json::from_value(series["metric"].clone()).unwrap();
            let samples = series["values"].as_array().unwrap().iter().map(|sample| {
                let time = (sample[0].as_f64().unwrap() * 1_000.0).round() as i64;
                (time, sample[1].as_str().unwrap().parse().unwrap())
            });
            (labels, samples.collect())
        });
        Samples {
            series: series.collect(),
        }
    }

    /// The increase of all series: the sum of the differences between samples; a sample that is
    /// lower than the previous one is a reset, and is added completely.
    pub(crate) fn increase(&self) -> f64 {
        let added = |pair: &[(i64, f64)]| match pair[1].1 < pair[0].1 {
            true => pair[1].1,
            false => pair[1].1 - pair[0].1,
        };
        let series = self.series.iter();
        series
            .flat_map(|(_, samples)| samples.windows(2).map(added))
            .sum()
    }

    /// The same, computed by the running Prometheus at the time of the last sample. Nothing is
    /// extrapolated then: counters were zero before the first sample, and nothing follows the last
    /// one.
    pub(crate) fn increase_by(&self, prometheus: &Prometheus, selector: &str) -> f64 {
        let query = format!("sum(increase({selector}[1h]))");
        let time = self.times().last().copied().unwrap();
        let time = format!("{}.{:03}", time / 1_000, time % 1_000);
        let query = [("query", query.as_str()), ("time", &time)];
        let data = prometheus.get("/api/v1/query", &query).unwrap();
        let value = data["result"][0]["value"][1].as_str();
        value.unwrap().parse().unwrap()
    }

    fn times(&self) -> BTreeSet<i64> {
        let samples = self.series.iter().flat_map(|(_, samples)| samples);
        samples.map(|(time, _)| *time).collect()
    }

    /// Replays the samples with promtool, one per second, and requires this increase.
    pub(crate) fn check_by_promtool(&self, programs: &Path, expected: f64) {
        let times = self.times();
        let series = self.series.iter().map(|(labels, samples)| {
            let mut labels = labels.clone();
            labels.insert("__name__".into(), "replayed_total".into());
            let labels = labels
                .iter()
                .map(|(name, value)| format!("{name}={value:?}"));
            let labels = labels.collect::<Vec<_>>().join(",");
            let at = |time: &i64| samples.iter().find(|(of, _)| of == time);
            let values = times.iter().map(|time| match at(time) {
                Some((_, value)) => value.to_string(),
                None => "_".to_owned(),
            });
            json!({
                "series": format!("{{{labels}}}"),
                "values": values.collect::<Vec<_>>().join(" "),
            })
        });
        let test = json!({
            "evaluation_interval": "1s",
            "tests": [{
                "interval": "1s",
                "input_series": series.collect::<Vec<_>>(),
                "promql_expr_test": [{
                    "expr": "sum(increase(replayed_total[1h]))",
                    "eval_time": format!("{}s", times.len() - 1),
                    "exp_samples": [{"value": expected}],
                }],
            }],
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), test.to_string()).unwrap();
        run(Command::new(programs.join("promtool"))
            .args(["test", "rules"])
            .arg(file.path()));
    }
}
