//! The commands of the program, except for running the agent.

pub mod check;
pub mod config;
pub mod health;
pub mod once;
