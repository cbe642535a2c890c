//! The check is in `checks/spiffe_id.rs`: `make test` runs it too, on random inputs.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/spiffe_id.rs"]
mod check;

fuzz_target!(|text: &str| {
    let _ = check::check(text);
});
