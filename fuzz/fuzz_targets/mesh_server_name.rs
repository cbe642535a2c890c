//! The check is in `checks/mesh_server_name.rs`: `make test` runs it too, on random inputs.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/mesh_server_name.rs"]
mod check;

fuzz_target!(|text: &str| {
    let _ = check::check(text);
});
