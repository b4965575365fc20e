#![no_main]

use prefect_otel_agent::properties::answers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| answers(data));
