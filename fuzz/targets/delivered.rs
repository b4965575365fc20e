#![no_main]

use prefect_otel_agent::properties::delivered;

libfuzzer_sys::fuzz_target!(|data: &[u8]| delivered(data));
