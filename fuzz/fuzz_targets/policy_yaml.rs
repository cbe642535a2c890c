//! The check is in `checks/policy_yaml.rs`: `make test` runs it too, on random inputs.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/policy_yaml.rs"]
mod check;

fuzz_target!(|text: &str| {
    check::check(text);
});
