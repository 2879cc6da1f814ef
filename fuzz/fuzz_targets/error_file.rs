#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ice::fuzzing::error_file(data));
