//! The core against an in-memory Prefect in virtual time, and that Prefect against a real one.

// A test ends by panicking; the lint's own exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod contract;
mod counts;
// A scenario uses what it needs of it.
#[allow(dead_code)]
mod lab;
mod observer;
#[allow(dead_code)]
mod prefect;
mod schedule;
mod seeds;
mod smoke;
mod support;
