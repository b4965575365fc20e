//! A machine that stops: its host, or a limit of its CPU time, may suspend every process for
//! seconds.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(50);
/// A thread that is this late was not merely waiting for its turn.
const LATE: Duration = Duration::from_millis(150);
/// What fails although the machine stopped for less than this is a failure.
const ENOUGH: Duration = Duration::from_secs(1);
const TRIES: usize = 5;

/// For how long the machine has been stopped in total since the first call.
fn stopped() -> Duration {
    static WATCH: Once = Once::new();
    static STOPPED_MS: AtomicU64 = AtomicU64::new(0);
    WATCH.call_once(|| {
        std::thread::spawn(|| {
            loop {
                let began = Instant::now();
                std::thread::sleep(TICK);
                let late = began.elapsed().saturating_sub(TICK);
                if late >= LATE {
                    STOPPED_MS.fetch_add(late.as_millis() as u64, Ordering::Relaxed);
                }
            }
        });
    });
    Duration::from_millis(STOPPED_MS.load(Ordering::Relaxed))
}

/// Runs a test of limits in seconds, which cannot hold on a machine that stops: if it fails and the
/// machine was stopped meanwhile, it is repeated.
pub(crate) fn undisturbed<T>(what: &str, mut test: impl FnMut() -> T) -> T {
    for _ in 1..TRIES {
        let before = stopped();
        match catch_unwind(AssertUnwindSafe(&mut test)) {
            Ok(result) => return result,
            Err(failure) => {
                let stopped = stopped() - before;
                if stopped < ENOUGH {
                    resume_unwind(failure);
                }
                // `eprintln!` in a test that passes is not shown.
                _ = writeln!(
                    std::io::stderr(),
                    "{what} is repeated: the machine was stopped for {stopped:?}"
                );
            }
        }
    }
    test()
}
