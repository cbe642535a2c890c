use super::*;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;
use weft_runtime::registry::CounterFamily;

const LIMITS: Limits = Limits { half_closed_max: Duration::from_secs(300), idle_max: None };

/// Longest wait for what must come.
const SOON: Duration = Duration::from_secs(30);

struct Carried {
    client: DuplexStream,
    server: DuplexStream,
    end: JoinHandle<(End, Duration)>,
}

fn carried(room: usize, limits: Limits) -> Carried {
    let ((client, one), (other, server)) = (duplex(room), duplex(room));
    let pair = Pair::new(Stream::Duplex(one), Stream::Duplex(other));
    let end = tokio::task::spawn_local(async move {
        let start = Instant::now();
        let end = pair.carry(Bytes::new(), Bytes::new(), limits, Meter::default()).await;
        (end, start.elapsed())
    });
    Carried { client, server, end }
}

/// Both ends of a connection over loopback, the first one with a small send buffer.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    let (near, far) = tokio::join!(socket.connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

async fn local<F: Future>(test: F) -> F::Output {
    LocalSet::new().run_until(test).await
}

/// A pair between two connections; the far ends and how it ended.
async fn carried_by_kernel() -> (TcpStream, TcpStream, JoinHandle<End>) {
    let ((client, one), (other, server)) = (connection().await, connection().await);
    let pair = Pair::new(Stream::Tcp(one), Stream::Tcp(other));
    let end = tokio::task::spawn_local(async move {
        pair.carry(Bytes::new(), Bytes::new(), LIMITS, Meter::default()).await
    });
    (client, server, end)
}

#[tokio::test]
async fn each_side_may_end_first_and_the_other_goes_on() {
    local(async {
        for client_first in [true, false] {
            let Carried { client, server, end } = carried(16, LIMITS);
            let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
            first.write_all(b"the last of it").await.unwrap();
            first.shutdown().await.unwrap();
            let mut heard = Vec::new();
            second.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"the last of it");
            heard.clear();
            let answer = async {
                second.write_all(&[7; 1000]).await.unwrap();
                second.shutdown().await.unwrap();
            };
            let (heard_all, ()) = tokio::join!(first.read_to_end(&mut heard), answer);
            heard_all.unwrap();
            assert_eq!(heard, [7; 1000]);
            assert!(matches!(end.await.unwrap().0, End::Complete));
        }
    })
    .await;
}

#[tokio::test]
async fn bytes_are_counted_as_they_pass() {
    local(async {
        let family = CounterFamily::new("bytes_total", "Bytes.", ["way"], 2).unwrap();
        let (there, back) = (family.cell(["there"]), family.cell(["back"]));
        let ((mut client, one), (other, mut server)) = (duplex(64), duplex(64));
        let pair = Pair::new(Stream::Duplex(one), Stream::Duplex(other));
        let meter = Meter { there: Some(&there), back: Some(&back) };
        let carry = pair.carry(Bytes::from_static(b"early"), Bytes::new(), LIMITS, meter);
        let mut carry = std::pin::pin!(carry);
        let talk = async {
            let mut heard = [0; 10];
            client.write_all(b"hello").await.unwrap();
            server.read_exact(&mut heard).await.unwrap();
            server.write_all(b"!!").await.unwrap();
            client.read_exact(&mut heard[..2]).await.unwrap();
        };
        tokio::select! {
            end = &mut carry => panic!("it must go on: {end:?}"),
            () = talk => {}
        }
        assert_eq!((there.value(), back.value()), (10, 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn half_closed_silence_ends_and_every_byte_prolongs_it() {
    local(async {
        let Carried { mut client, mut server, end } = carried(64, LIMITS);
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(200)).await;
            server.write_all(b"x").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
        }
        let (end, after) = end.await.unwrap();
        assert!(matches!(end, End::HalfClosed), "{end:?}");
        assert_eq!(after.as_secs(), 3 * 200 + 300);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection_only_where_that_is_asked_for() {
    local(async {
        let hour = Duration::from_secs(3600);
        let limits = Limits { idle_max: Some(hour), ..LIMITS };
        let Carried { mut client, server: _server, end } = carried(64, limits);
        tokio::time::sleep(hour / 2).await;
        client.write_all(b"x").await.unwrap();
        let (end, after) = end.await.unwrap();
        assert!(matches!(end, End::Idle), "{end:?}");
        assert_eq!(after.as_secs(), 3600 + 1800);

        // Half closed, the shorter wait holds, from the moment of the half-close.
        let Carried { mut client, server: _server, end } = carried(64, limits);
        tokio::time::sleep(hour / 2).await;
        client.shutdown().await.unwrap();
        let (end, after) = end.await.unwrap();
        assert!(matches!(end, End::HalfClosed), "{end:?}");
        assert_eq!(after.as_secs(), 1800 + 300);

        let Carried { client: _client, server: _server, end } = carried(64, LIMITS);
        tokio::time::sleep(100 * hour).await;
        assert!(!end.is_finished());
    })
    .await;
}

#[tokio::test]
async fn a_reset_of_one_side_is_a_reset_of_the_other() {
    local(async {
        for client_resets in [true, false] {
            let (client, server, end) = carried_by_kernel().await;
            let (first, mut second) = if client_resets { (client, server) } else { (server, client) };
            reset(first);
            let error = second.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert!(matches!(end.await.unwrap(), End::Broken(_)));
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_cut_is_reset_on_both_sides() {
    local(async {
        let (mut client, mut server, end) = carried_by_kernel().await;
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        end.abort();
        for side in [&mut client, &mut server] {
            let error = side.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    })
    .await;
}

#[tokio::test]
async fn the_last_words_of_a_side_that_resets_are_heard() {
    local(async {
        let (mut client, mut server, end) = carried_by_kernel().await;
        client.write_all(b"unread").await.unwrap();
        assert_eq!(server.peek(&mut [0; 6]).await.unwrap(), 6);
        server.write_all(b"go away").await.unwrap();
        // With bytes unread, closing is a reset.
        drop(server);
        let mut heard = Vec::new();
        let ended = client.read_to_end(&mut heard).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(heard, b"go away");
        assert!(matches!(end.await.unwrap(), End::Broken(_)));
    })
    .await;
}

#[tokio::test]
async fn a_reset_is_noticed_while_the_other_side_takes_nothing() {
    local(async {
        let (client, server, end) = carried_by_kernel().await;
        // Until every buffer on the way is full: the server reads nothing.
        let piece = vec![0; 256 * 1024];
        while tokio::time::timeout(Duration::from_millis(300), client.writable()).await.is_ok() {
            let _ = client.try_write(&piece);
        }
        reset(client);
        let end = tokio::time::timeout(SOON, end).await.expect("it must be noticed").unwrap();
        assert!(matches!(end, End::Broken(_)), "{end:?}");
        drop(server);
    })
    .await;
}

#[tokio::test]
async fn one_turn_of_a_connection_that_never_rests_is_short() {
    local(async {
        let ((mut client, one), (other, mut server)) = (duplex(4 << 20), duplex(8 << 20));
        client.write_all(&vec![0; 4 << 20]).await.unwrap();
        let family = CounterFamily::new("bytes_total", "Bytes.", [], 1).unwrap();
        let there = family.cell([]);
        let pair = Pair::new(Stream::Duplex(one), Stream::Duplex(other));
        let meter = Meter { there: Some(&there), back: None };
        let mut carry = std::pin::pin!(pair.carry(Bytes::new(), Bytes::new(), LIMITS, meter));
        let polled =
            tokio::task::unconstrained(poll_fn(|cx| Poll::Ready(carry.as_mut().poll(cx).is_pending()))).await;
        assert!(polled);
        let first = there.value() as usize;
        assert!((BURST_BYTES..BURST_BYTES + (128 << 10)).contains(&first), "{first} bytes in one turn");
        // It asked for its next turn.
        let mut all = vec![0; 4 << 20];
        tokio::select! {
            end = carry => panic!("it must go on: {end:?}"),
            read = server.read_exact(&mut all) => assert_eq!(read.unwrap(), 4 << 20),
        }
        assert_eq!(there.value() as usize, 4 << 20);
    })
    .await;
}
