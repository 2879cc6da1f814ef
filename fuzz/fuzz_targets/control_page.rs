#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ice::fuzzing::control_page(data));
