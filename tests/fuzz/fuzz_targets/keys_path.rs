//! The engine's program for the target `keys_path`, which is in `tests/src/fuzz`.
#![no_main]

use trimtab_tests::fuzz::{run, weight::Scale};

#[global_allocator]
static SCALE: Scale = Scale;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run("keys_path", bytes));
