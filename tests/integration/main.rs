//! Everything that is tested through the library or the binary, as one test program.

// A test ends by panicking; the lint's own exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod alerts;
mod checkpoint;
mod choice;
mod churn;
mod cli;
mod compatibility;
mod compose;
mod confined;
mod dashboards;
mod delivery;
mod deltas;
mod documentation;
mod end_to_end;
mod exactly_once;
mod families;
mod faults;
mod first_events;
mod fleet;
mod honesty;
mod image;
mod lifecycle;
mod native;
mod otlp;
mod parity;
mod push_path;
mod push_pull;
mod receivers;
mod recreate;
mod soak;
mod stack;
mod support;
mod truth;
mod tutorial;
