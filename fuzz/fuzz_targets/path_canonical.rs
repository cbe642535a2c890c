//! The checks are in `checks/path_canonical.rs`: `make test` runs them too, on random inputs. The input: a path,
//! or two, parted by a line feed. They are held against each other, and the first against itself as the bytes
//! of the second would spell it.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/path_canonical.rs"]
mod check;

fuzz_target!(|input: &str| {
    let (path, other) = input.split_once('\n').unwrap_or((input, input));
    let respelled = check::respelled(path, other.as_bytes());
    let _ = check::check(path) | check::check(other) | check::check(&respelled);
    let _ = check::meet(path, other) | check::meet(path, &respelled);
});
