#![no_main]

use prefect_otel_agent::properties::receivers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| receivers(data));
