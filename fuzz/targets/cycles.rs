#![no_main]

use prefect_otel_agent::properties::cycles;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cycles(data));
