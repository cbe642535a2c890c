//! The check is in `checks/authorization.rs`: `make test` runs it too, on seeds and what is near them.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/authorization.rs"]
mod check;

fuzz_target!(|input: &[u8]| {
    let _ = check::check(input);
});
