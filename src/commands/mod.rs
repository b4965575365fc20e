//! What the program can do apart from running the agent.

pub mod check;
pub mod config;
pub mod health;
pub mod once;
