//! What the program can do apart from running the agent.

pub mod check;
pub mod health;
pub mod once;
