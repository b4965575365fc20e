//! The real Prefect server that the integration tests start.

#[allow(dead_code)]
#[path = "../integration/support/page.rs"]
pub(crate) mod page;
#[allow(dead_code)]
#[path = "../integration/support/prefect.rs"]
pub(crate) mod prefect;
#[allow(dead_code)]
#[path = "../integration/support/process.rs"]
pub(crate) mod process;
