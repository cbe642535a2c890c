//! The key by which [consistent hashing](super::maglev) finds an endpoint.

use super::maglev::hash::of_bytes;
use crate::http::{Known, RequestHead};
use crate::worker::Worker;
use weft_model::traffic::{HashOn, Traffic};

/// What hashes are of: keys of requests are not names of endpoints.
const SEED: u64 = 2;

/// A request's key. `None`: nothing is hashed, or it has not what is, and is balanced like any other.
pub fn of_request(traffic: &Traffic, head: &RequestHead, worker: &Worker) -> Option<u64> {
    match traffic.load_balancing.hash.as_ref()? {
        HashOn::Header(name) => head.headers().find(name).map(key),
        HashOn::Cookie(name) => {
            head.headers().get_all(Known::Cookie).find_map(|value| cookie(value, name)).map(key)
        }
        HashOn::Source => of_source(worker),
    }
}

/// An opaque connection's key: it has nothing but its source.
pub fn of_connection(traffic: &Traffic, worker: &Worker) -> Option<u64> {
    (traffic.load_balancing.hash == Some(HashOn::Source)).then(|| of_source(worker)).flatten()
}

fn of_source(worker: &Worker) -> Option<u64> {
    let policy = worker.policy.current();
    policy.own.workload.as_ref().map(|own| key(own.uid.as_str().as_bytes()))
}

fn cookie<'v>(value: &'v [u8], name: &str) -> Option<&'v [u8]> {
    let mut pairs = value.split(|byte| *byte == b';');
    pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

fn key(bytes: &[u8]) -> u64 {
    of_bytes(SEED, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        assert_eq!(cookie(b"a=1; session=x=y; b=2", "session"), Some(&b"x=y"[..]));
        assert_eq!(cookie(b"my-session=1;session", "session"), None);
        assert_eq!(cookie(b"session=", "session"), Some(&b""[..]));
    }
}
