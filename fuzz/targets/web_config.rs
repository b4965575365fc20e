#![no_main]

use prefect_otel_agent::properties::web_config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| web_config(data));
