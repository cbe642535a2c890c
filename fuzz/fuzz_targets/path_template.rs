//! The check is in `checks/path_template.rs`: `make test` runs it too, on seeds and what is near them.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/path_template.rs"]
mod check;

fuzz_target!(|input: &str| {
    let _ = check::check(input);
});
