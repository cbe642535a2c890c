//! The check is in `checks/wire_resource.rs`: `make test` runs it too, on random inputs.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/wire_resource.rs"]
mod check;

fuzz_target!(|input: &[u8]| {
    let _ = check::check(input);
});
