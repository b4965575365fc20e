#![no_main]

use prefect_otel_agent::properties::checkpoint;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkpoint(data));
