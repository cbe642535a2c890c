//! The checks are in `checks/path_canonical.rs`: `make test` runs them too, on random inputs. The input: a path,
//! or two, parted by a line feed, which are held against each other.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_model::path::canonical;

#[path = "../checks/path_canonical.rs"]
mod check;

fuzz_target!(|input: &str| {
    let (path, other) = input.split_once('\n').unwrap_or((input, input));
    let _ = check::check(path) | check::check(other);
    let (Ok(one), Ok(two)) = (canonical(path), canonical(other)) else { return };
    for (name, parser) in check::PARSERS {
        assert!(parser(path) != parser(other) || one == two, "{name}: {path} and {other}");
    }
});
