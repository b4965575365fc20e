#![no_main]

use prefect_otel_agent::properties::texts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| texts(data));
