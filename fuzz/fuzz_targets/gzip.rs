#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry::fuzzing::gzip_file(bytes));
