//! A push-based metrics agent for Prefect 3.
//!
//! It reads the API of a Prefect server (or of a Prefect Cloud workspace) and exports OpenTelemetry
//! metrics: pushed over OTLP, and served on `/metrics` for Prometheus. Data flows one way through
//! these modules (`docs/architecture.md` has a diagram):
//!
//! - [`settings`]: every setting, with its default and validation;
//! - [`prefect`]: the API as a typed client;
//! - [`core`]: the agent's knowledge of the workspace, what to request next, what an answer
//!   changes; no I/O, no clock;
//! - [`sampler`]: sends the requests that the core plans, concurrently, under one deadline per
//!   cycle;
//! - [`checkpoint`]: the core's memory, in a file; [`keeper`]: writes it although the disk may not
//!   respond;
//! - [`metrics`]: the catalogue, every family declared once;
//! - [`export`]: OpenTelemetry's meter providers, OTLP, the Prometheus bridge;
//! - [`http`]: `/metrics`, `/healthz`, `/readyz`, the status page; [`status`]: its content;
//! - [`cycles`]: read, count, write the checkpoint, report; [`publisher`]: publishes the reports at
//!   its own pace; [`publications`]: which states it has published; [`workspaces`]: the cycles of
//!   each workspace;
//! - [`agent`]: wires the modules, starts and stops;
//! - [`cli`]: arguments; [`commands`]: every command but `run`; [`docgen`]: the generated references;
//! - [`telemetry`]: the agent's own logs and traces; [`resource_usage`]: its CPU time and memory;
//!   [`shutdown`]: its shutdown; [`stdio`]: the standard streams;
//! - [`failure`]: since when and why something fails; [`clip`]: bounds the length of foreign texts; [`secrets`]: masks secrets in every message.
//!
//! The files named `properties.rs` state what must hold for any bytes from outside; the tests and the
//! targets of `fuzz/` share them.

#![warn(clippy::print_stderr)]
// Bytes from outside must not end the process. These lints are for the code of the agent alone: its
// tests end by panicking.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unreachable
)]
#![cfg_attr(
    any(test, fuzzing),
    allow(
        clippy::arithmetic_side_effects,
        clippy::string_slice,
        clippy::unreachable
    )
)]

pub mod agent;
mod blocking;
mod cause;
pub mod checkpoint;
pub mod cli;
pub mod clip;
pub mod commands;
pub mod core;
pub mod cycles;
pub mod docgen;
pub mod export;
pub mod failure;
pub mod http;
pub mod keeper;
pub mod metrics;
pub mod prefect;
#[cfg(any(test, fuzzing))]
pub mod properties;
mod proxy;
pub mod publications;
pub mod publisher;
pub mod resource_usage;
mod rotation;
pub mod sampler;
pub mod secrets;
pub mod settings;
pub mod shutdown;
pub mod status;
pub mod stdio;
pub mod telemetry;
mod tls;
pub mod workspaces;
