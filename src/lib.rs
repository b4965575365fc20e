//! A push-based metrics agent for Prefect 3.
//!
//! It samples the API of a Prefect server (or of a Prefect Cloud workspace) and turns what it
//! reads into OpenTelemetry metrics: pushed by OTLP, and served on `/metrics` for Prometheus.
//! Data flows one way, through these modules; `docs/architecture.md` draws them:
//!
//! - [`settings`]: every setting, its default and its check;
//! - [`prefect`]: the API as a typed client;
//! - [`core`]: what is known, what to ask next, what an answer changes; no I/O, no clock;
//! - [`sampler`]: sends what the core plans, side by side, under one deadline per cycle;
//! - [`checkpoint`]: what the core has to remember, in a file;
//! - [`metrics`]: the catalogue, every family declared once;
//! - [`export`]: OpenTelemetry's meter providers, OTLP, the Prometheus bridge;
//! - [`http`]: `/metrics`, `/healthz`, `/readyz`;
//! - [`cycles`]: sample, count, keep, report; [`publisher`]: publishes the reports, at its own pace;
//! - [`agent`]: wires them, starts and stops;
//! - [`cli`]: arguments; [`commands`]: what they ask for, except running the agent; [`docgen`]: the
//!   generated reference;
//! - [`telemetry`]: the agent's own logs and traces; [`resource_usage`]: its CPU time and
//!   memory; [`shutdown`]: its end.

pub mod agent;
mod cause;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod core;
pub mod cycles;
pub mod docgen;
pub mod export;
pub mod http;
pub mod metrics;
pub mod prefect;
pub mod publisher;
pub mod resource_usage;
pub mod sampler;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
mod tls;
