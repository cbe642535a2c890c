use super::client_hello::tests::sent;
use super::judge::PREFACE;
use super::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

async fn pair() -> (TcpStream, Opening) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (client, Opening::new(server))
}

/// All that is read from a stream until it ends.
async fn rest(mut stream: Stream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

async fn waited(client: &mut TcpStream, pieces: impl Iterator<Item = &[u8]>) {
    for piece in pieces {
        client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn first_bytes_in_pieces_are_waited_for_and_stay_in_front() {
    let hello = sent("db.example.com", &[b"h2"]);
    let cases: [(&[u8], usize); 3] =
        [(PREFACE, 5), (&hello, 100), (b"GET /items HTTP/1.1\r\nHost: cart\r\n\r\n", 4)];
    for (bytes, size) in cases {
        let (mut client, mut opening) = pair().await;
        let (spoken, ()) = tokio::join!(opening.spoken(Expect::Any), waited(&mut client, bytes.chunks(size)));
        assert_eq!(Some(spoken.unwrap()), judge::judge(Expect::Any, bytes));
        drop(client);
        assert_eq!(rest(opening.into_stream()).await, bytes);
    }
}

#[tokio::test]
async fn a_stream_that_is_read_gives_back_what_was_read() {
    let (mut client, server) = tokio::io::duplex(64);
    let mut opening = Opening::of(Stream::Duplex(server), Bytes::from_static(b"PRI * HT"));
    let speak = async {
        for piece in PREFACE[8..].chunks(3) {
            client.write_all(piece).await.unwrap();
        }
    };
    let (spoken, ()) = tokio::join!(opening.spoken(Expect::Http), speak);
    assert_eq!(spoken.unwrap(), Spoken::Http2);
    drop(client);
    assert_eq!(rest(opening.into_stream()).await, PREFACE);
}

#[tokio::test]
async fn a_client_that_closes_has_said_what_it_said() {
    for (said, expect, spoken) in [
        (&b""[..], Expect::Any, Spoken::Nothing),
        (b"", Expect::Http, Spoken::Nothing),
        (b"PRI", Expect::Any, Spoken::Opaque),
        (b"PRI", Expect::Http, Spoken::Http1),
        (b"GE", Expect::Any, Spoken::Opaque),
    ] {
        let (mut client, mut opening) = pair().await;
        client.write_all(said).await.unwrap();
        drop(client);
        assert_eq!(opening.spoken(expect).await.unwrap(), spoken, "{said:?}");
        assert_eq!(rest(opening.into_stream()).await, said);
    }
}

#[tokio::test]
async fn what_stays_unclear_is_opaque_after_its_time_and_not_a_byte_is_lost() {
    let (mut client, mut opening) = pair().await;
    client.write_all(b"PING").await.unwrap();
    let began = Instant::now();
    tokio::time::timeout(Duration::from_millis(1), opening.spoken(Expect::Any)).await.ok();
    while !opening.has_begun() {
        // Given up again and again, as a race with the server does.
        tokio::time::timeout(Duration::from_millis(1), opening.spoken(Expect::Any)).await.ok();
    }
    tokio::time::pause();
    assert_eq!(opening.spoken(Expect::Any).await.unwrap(), Spoken::Opaque);
    assert!(began.elapsed() >= DEFAULT_UNCLEAR_MAX);
    tokio::time::resume();
    let mut stream = opening.into_stream();
    let mut read = [0; 4];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"PING");
    client.write_all(b"\r\n").await.unwrap();
    drop(client);
    assert_eq!(rest(stream).await, b"\r\n");
}

#[tokio::test]
async fn the_time_to_become_clear_begins_with_the_first_byte_and_once() {
    let (client, server) = tokio::io::duplex(64);
    let mut client = client;
    tokio::time::pause();
    let mut opening = Opening::of(Stream::Duplex(server), Bytes::new());
    // Silence costs nothing of it.
    assert!(timeout_at(Instant::now() + Duration::from_secs(60), opening.spoken(Expect::Any)).await.is_err());
    assert!(!opening.has_begun());
    let began = Instant::now();
    let speak = async {
        for _ in 0..8 {
            client.write_all(b"A").await.unwrap();
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    };
    let (spoken, ()) = tokio::join!(
        async {
            let spoken = opening.spoken(Expect::Any).await.unwrap();
            (spoken, began.elapsed())
        },
        speak
    );
    assert_eq!(spoken.0, Spoken::Opaque);
    // Timers have a millisecond's grain.
    assert!(spoken.1 >= DEFAULT_UNCLEAR_MAX && spoken.1 < DEFAULT_UNCLEAR_MAX + Duration::from_millis(10));
}
