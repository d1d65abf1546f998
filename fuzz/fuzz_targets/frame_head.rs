#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dlog_storage_node::fuzzing::frame_head(bytes));
