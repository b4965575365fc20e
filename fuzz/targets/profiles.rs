#![no_main]

use prefect_otel_agent::properties::profiles;

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiles(data));
