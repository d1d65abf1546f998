#![no_main]

libfuzzer_sys::fuzz_target!(|frame: &[u8]| dlog_kafka::fuzzing::request(frame));
