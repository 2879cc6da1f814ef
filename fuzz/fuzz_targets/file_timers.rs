#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ice::fuzzing::file_timers(data));
