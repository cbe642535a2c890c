//! The check is in `checks/subscription_ops.rs`: `make test` runs it too, on seeds and what is near them.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/subscription_ops.rs"]
mod check;

fuzz_target!(|steps: &[u8]| {
    let _ = check::check(steps);
});
