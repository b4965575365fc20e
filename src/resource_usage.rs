//! The resource usage of the process.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::metrics::agent::Process;

/// Watches this process.
pub struct ResourceUsage {
    system: System,
    pid: Option<Pid>,
}

impl Default for ResourceUsage {
    fn default() -> Self {
        ResourceUsage {
            system: System::new(),
            pid: sysinfo::get_current_pid().ok(),
        }
    }
}

impl ResourceUsage {
    /// The current CPU time and memory; `None` if the system does not report them.
    pub fn read(&mut self) -> Option<Process> {
        let pid = self.pid?;
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
        self.system
            .refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
        let process = self.system.process(pid)?;
        Some(Process {
            cpu_seconds: process.accumulated_cpu_time() as f64 / 1000.0,
            memory_bytes: process.memory(),
        })
    }
}
