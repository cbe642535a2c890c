//! The check is in `checks/jwt.rs`: `make test` runs it too, on random inputs.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/jwt.rs"]
mod check;

fuzz_target!(|text: &str| {
    let _ = check::check(text);
});
