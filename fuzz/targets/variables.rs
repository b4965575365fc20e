#![no_main]

use prefect_otel_agent::properties::variables;

libfuzzer_sys::fuzz_target!(|data: &[u8]| variables(data));
