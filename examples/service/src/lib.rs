//! A small REST service, instrumented with OpenTelemetry.
//!
//! [`service`] is what a service does anyway; [`telemetry`] is all that its metrics need.

pub mod service;
pub mod telemetry;
