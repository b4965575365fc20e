//! Tests through the library and the binary, as one test program.

// A test fails by panicking; the lint's exception for tests does not include their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod alerts;
mod browser;
mod check;
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
mod endurance;
mod exactly_once;
mod families;
mod faults;
mod first_events;
mod fleet;
mod honesty;
mod hung_disk;
mod image;
mod lifecycle;
mod native;
mod once;
mod otlp;
mod parity;
mod port;
mod push_path;
mod push_pull;
mod receivers;
mod recreate;
mod settings;
mod shutdown;
mod soak;
mod stack;
mod status;
mod support;
mod truth;
mod tutorial;
mod web_config;
