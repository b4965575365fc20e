//! Counts the instructions of each stage of a cycle, which do not depend on the machine's load.
//!
//!     cargo bench --bench instructions
//!
//! Requires valgrind and `gungraun-runner` in the version of `gungraun` in `Cargo.lock`, which
//! `.ci/check-instructions` installs. Each stage has the figure that this script measured last, in
//! millions. More than 10 % above it fails. Put the new figure there if the growth is intended, or
//! if it is much lower.

#![allow(clippy::unwrap_used, clippy::panic, dead_code, missing_docs)]

mod stages;

use std::hint::black_box;

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use prefect_otel_agent::core::{Core, Cycle};
use prefect_otel_agent::metrics::Reading;
use prefect_otel_agent::prefect::Answer;
use stages::{Body, Cycling, Publishing, Saving};

/// At most 10 % above so many million instructions.
fn about(millions: f64) -> LibraryBenchmarkConfig {
    let most = (millions * 1.1e6) as u64;
    let mut callgrind = Callgrind::with_args(["--cache-sim=no"]);
    callgrind.hard_limits([(EventKind::Ir, most)]);
    LibraryBenchmarkConfig::default().tool(callgrind).clone()
}

#[library_benchmark]
#[bench::thousand(args = (1_000), setup = Body::of_runs, config = about(47.4))]
#[bench::ten_thousand(args = (10_000), setup = Body::of_runs, config = about(465.0))]
fn decode(body: Body) -> (Answer, Body) {
    (black_box(body.decode()), body)
}

#[library_benchmark]
#[bench::thousand(args = (1_000), setup = Cycling::first, config = about(1.39))]
#[bench::ten_thousand(args = (10_000), setup = Cycling::first, config = about(12.3))]
fn first_cycle(cycling: Cycling) -> (Core, Cycle) {
    black_box(cycling.run())
}

#[library_benchmark]
#[bench::thousand(args = (1_000), setup = Cycling::steady, config = about(1.04))]
#[bench::ten_thousand(args = (10_000), setup = Cycling::steady, config = about(8.3))]
fn steady_cycle(cycling: Cycling) -> (Core, Cycle) {
    black_box(cycling.run())
}

#[library_benchmark]
#[bench::thousand(args = (1_000), setup = Publishing::new, config = about(2.18))]
#[bench::ten_thousand(args = (10_000), setup = Publishing::new, config = about(17.8))]
fn read(mut publishing: Publishing) -> (Vec<Reading>, Publishing) {
    (black_box(publishing.read()), publishing)
}

#[library_benchmark]
#[bench::thousand(args = (1_000), setup = Publishing::unrendered, config = about(2.99))]
#[bench::ten_thousand(args = (10_000), setup = Publishing::unrendered, config = about(17.9))]
fn render((publishing, readings): (Publishing, Vec<Reading>)) -> Publishing {
    publishing.render(readings);
    publishing
}

#[library_benchmark]
#[bench::thousand(args = (1_000), setup = Publishing::rendered, config = about(13.0))]
#[bench::ten_thousand(args = (10_000), setup = Publishing::rendered, config = about(113.0))]
fn push(publishing: Publishing) -> (Vec<u8>, Publishing) {
    (black_box(publishing.push()), publishing)
}

#[library_benchmark]
#[bench::thousand(args = (1_000), setup = Saving::new, config = about(0.63))]
#[bench::ten_thousand(args = (10_000), setup = Saving::new, config = about(6.24))]
fn checkpoint(mut saving: Saving) -> (Vec<u8>, Saving) {
    (black_box(saving.save()), saving)
}

library_benchmark_group!(
    name = stages_of_a_cycle,
    benchmarks = [
        decode,
        first_cycle,
        steady_cycle,
        read,
        render,
        push,
        checkpoint
    ]
);

main!(library_benchmark_groups = stages_of_a_cycle);
