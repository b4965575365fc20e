#![no_main]

use prefect_otel_agent::properties::headers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| headers(data));
