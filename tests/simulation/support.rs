//! The real servers that the integration tests start.

#[allow(dead_code)]
#[path = "../integration/support/page.rs"]
pub(crate) mod page;
#[path = "../integration/support/postgres.rs"]
pub(crate) mod postgres;
#[allow(dead_code)]
#[path = "../integration/support/prefect.rs"]
pub(crate) mod prefect;
#[allow(dead_code)]
#[path = "../integration/support/process.rs"]
pub(crate) mod process;
#[allow(dead_code)]
#[path = "../integration/support/programs.rs"]
pub(crate) mod programs;
