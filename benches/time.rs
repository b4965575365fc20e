//! Measures the time of each stage of a cycle at several sizes, so that growth shows.
//!
//!     cargo bench --bench time
//!
//! Sizes are numbers of series, or of runs for `decode`. Divide by them to compare.

#![allow(clippy::unwrap_used, clippy::panic, dead_code, missing_docs)]

mod stages;

use divan::Bencher;
use divan::counter::ItemsCount;
use stages::{Body, Cycling, Publishing, Saving};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

fn main() {
    divan::main();
}

#[divan::bench(args = SIZES)]
fn decode(bencher: Bencher<'_, '_>, runs: usize) {
    let body = Body::of_runs(runs);
    bencher
        .counter(ItemsCount::new(runs))
        .bench_local(|| body.decode());
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn first_cycle(bencher: Bencher<'_, '_>, series: usize) {
    let cycling = bencher
        .counter(ItemsCount::new(series))
        .with_inputs(|| Cycling::first(series));
    cycling.bench_local_values(Cycling::run);
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn steady_cycle(bencher: Bencher<'_, '_>, series: usize) {
    let cycling = bencher
        .counter(ItemsCount::new(series))
        .with_inputs(|| Cycling::steady(series));
    cycling.bench_local_values(Cycling::run);
}

#[divan::bench(args = SIZES)]
fn read(bencher: Bencher<'_, '_>, series: usize) {
    let mut publishing = Publishing::new(series);
    bencher
        .counter(ItemsCount::new(series))
        .bench_local(|| publishing.read());
}

#[divan::bench(args = SIZES)]
fn render(bencher: Bencher<'_, '_>, series: usize) {
    let (publishing, readings) = Publishing::unrendered(series);
    let readings = bencher
        .counter(ItemsCount::new(series))
        .with_inputs(|| stages::again(&readings));
    readings.bench_local_values(|readings| publishing.render(readings));
}

#[divan::bench(args = SIZES)]
fn push(bencher: Bencher<'_, '_>, series: usize) {
    let publishing = Publishing::rendered(series);
    let rendered = publishing.series();
    assert!(rendered.abs_diff(series) < series / 4, "{rendered}");
    bencher
        .counter(ItemsCount::new(series))
        .bench_local(|| publishing.push());
}

#[divan::bench(args = SIZES)]
fn checkpoint(bencher: Bencher<'_, '_>, series: usize) {
    let mut saving = Saving::new(series);
    bencher
        .counter(ItemsCount::new(series))
        .bench_local(|| saving.save());
}
