#![no_main]

use prefect_otel_agent::properties::files;

libfuzzer_sys::fuzz_target!(|data: &[u8]| files(data));
