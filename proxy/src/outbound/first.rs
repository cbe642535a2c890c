//! Who speaks first: what a connection to a port that declares nothing turns out to be.
//!
//! The client is waited for a moment. If it is silent, the server's side is connected as well, and
//! whoever speaks first decides: a server that does is no HTTP server, so the bytes are opaque; what a
//! client says is judged. A client that speaks at once costs no connection. A server's side that is
//! refused decides nothing: an HTTP client that is only slow is still served.

use super::Port;
use super::tcp::{self, Opened};
use crate::detect::guess::Kind;
use crate::detect::{DEFAULT_SILENCE_MAX, Expect, Opening, Spoken};
use crate::worker::Worker;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use weft_model::reason::Reason;

/// How long a silent client is kept where no server can be reached. One that speaks HTTP is then told
/// the reason; one that waits for a server to speak learns by the end that there is none, as it would
/// of a refused connection.
pub const DEFAULT_REFUSED_SILENCE_MAX: Duration = Duration::from_secs(5);

/// What a connection turned out to be.
pub enum First {
    /// The client spoke: HTTP, or nothing at all.
    Client(Spoken),
    /// Opaque bytes, and the connection that was made for them meanwhile.
    Opaque(Option<Opened>),
    /// There is no server, and the client said nothing.
    Refused(Reason),
}

/// Finds out.
pub async fn first(worker: &Rc<Worker>, port: &Rc<Port>, opening: &mut Opening) -> io::Result<First> {
    let silence = port.guess.silence();
    let spoken = match timeout(silence, opening.spoken(Expect::Any)).await {
        Ok(spoken) => spoken?,
        // It has begun: what it says decides, and costs no connection.
        Err(_) if opening.has_begun() => opening.spoken(Expect::Any).await?,
        Err(_) => return Box::pin(either(worker, port, opening)).await,
    };
    Ok(by_client(worker, port, opening, spoken, None))
}

/// Lets either side speak.
async fn either(worker: &Rc<Worker>, port: &Rc<Port>, opening: &mut Opening) -> io::Result<First> {
    let silent_until = Instant::now() + DEFAULT_SILENCE_MAX;
    let mut connecting = pin!(tcp::connect(worker, port));
    let mut opened = tokio::select! {
        biased;
        connected = &mut connecting => match connected {
            Ok(opened) => opened,
            Err(reason) => return refused(worker, port, opening, reason).await,
        },
        spoken = opening.spoken(Expect::Any) => {
            let spoken = spoken?;
            let opened = match spoken {
                Spoken::Http1 | Spoken::Http2 => None,
                Spoken::Tls(_) | Spoken::Opaque | Spoken::Nothing => connecting.await.ok(),
            };
            return Ok(by_client(worker, port, opening, spoken, opened));
        }
    };
    let spoken = tokio::select! {
        biased;
        heard = opened.hear() => match heard {
            Ok(count) => {
                // A server that ends without a word has not spoken.
                if count > 0 {
                    super::remember(worker, port, Kind::ServerFirst, opened.first(), None);
                }
                return Ok(First::Opaque(Some(opened)));
            }
            Err(_) => return refused(worker, port, opening, Reason::ConnectionReset).await,
        },
        spoken = timeout_at(silent_until, opening.spoken(Expect::Any)) => match spoken {
            Ok(spoken) => spoken?,
            Err(_) => return Ok(First::Client(Spoken::Nothing)),
        },
    };
    Ok(by_client(worker, port, opening, spoken, Some(opened)))
}

/// Waits a while longer for a client that may speak HTTP.
async fn refused(
    worker: &Rc<Worker>,
    port: &Rc<Port>,
    opening: &mut Opening,
    reason: Reason,
) -> io::Result<First> {
    match timeout(DEFAULT_REFUSED_SILENCE_MAX, opening.spoken(Expect::Any)).await {
        Ok(spoken) => Ok(by_client(worker, port, opening, spoken?, None)),
        Err(_) => Ok(First::Refused(reason)),
    }
}

/// The client spoke first.
fn by_client(
    worker: &Worker,
    port: &Port,
    opening: &Opening,
    spoken: Spoken,
    opened: Option<Opened>,
) -> First {
    if let Some(kind) = Kind::of(&spoken) {
        let server_name = match &spoken {
            Spoken::Tls(hello) => hello.server_name.as_deref(),
            _ => None,
        };
        super::remember(worker, port, kind, opening.first(), server_name);
    }
    let is_http = |kind| matches!(kind, Some(Kind::Http1 | Kind::Http2));
    match spoken {
        Spoken::Tls(_) | Spoken::Opaque => First::Opaque(opened),
        // It ended without a word, and may wait for the server's: some protocols are no more than that.
        Spoken::Nothing if !is_http(port.guess.kind()) => First::Opaque(opened),
        Spoken::Http1 | Spoken::Http2 | Spoken::Nothing => {
            if let Some(opened) = opened {
                opened.park();
            }
            First::Client(spoken)
        }
    }
}
