//! Simulation: the core with an in-memory Prefect in virtual time; and the comparison of that
//! Prefect with real servers.

// A test fails by panicking; the lint's exception for tests does not include their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod contract;
mod counts;
// Not every helper is used here.
#[allow(dead_code)]
mod lab;
mod observer;
#[allow(dead_code)]
mod prefect;
mod schedule;
mod seeds;
mod smoke;
mod support;
mod workers;
