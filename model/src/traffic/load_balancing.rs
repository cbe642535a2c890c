//! Which endpoint a request goes to.

/// How endpoints are chosen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LoadBalancing {
    /// The rule of choice.
    pub algorithm: Algorithm,
}

/// The rule by which one of several endpoints is chosen.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Algorithm {
    /// Of two at random the one with fewer requests under way.
    #[default]
    LeastRequest,
    /// Each in its turn.
    RoundRobin,
    /// Any.
    Random,
}
