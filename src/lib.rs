//! A push-based metrics agent for Prefect 3.
//!
//! It samples the API of a Prefect server (or of a Prefect Cloud workspace) and turns what it
//! sees into OpenTelemetry metrics: pushed by OTLP, and served on `/metrics` for Prometheus.
//! Data flows one way, through these rooms:
//!
//! - [`settings`]: every setting, its default and its check;
//! - [`prefect`]: the API as a typed client;
//! - [`sampler`]: what to ask in a cycle, and how to ask it cheaply;
//! - [`snapshot`]: the workspace as last seen, plain data;
//! - [`ledger`]: what happened, counted once; its checkpoint;
//! - [`metrics`]: the catalogue, every family declared once;
//! - [`export`]: OpenTelemetry's meter provider, OTLP, the Prometheus bridge;
//! - [`http`]: `/metrics`, `/healthz`, `/readyz`;
//! - [`agent`]: the loop that ties them; [`memory`]: what outlives it; [`usage`]: what it
//!   uses; [`mod@reference`]: what it declares, as documentation; [`telemetry`]: its own logs and traces; [`shutdown`]: its end; [`cli`]: its
//!   arguments; [`health`]: asks a running one.

pub mod agent;
pub mod checkpoint;
pub mod cli;
pub mod core;
pub mod export;
pub mod health;
pub mod http;
pub mod metrics;
pub mod prefect;
pub mod reference;
pub mod sampler;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod usage;
