//! The check is in `checks/path_canonical.rs`: `make test` runs it too, on random inputs.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/path_canonical.rs"]
mod check;

fuzz_target!(|path: &str| {
    let _ = check::check(path);
});
