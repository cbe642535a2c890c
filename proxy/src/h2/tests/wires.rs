//! HTTP/1.1 on both ends and HTTP/2 between two proxies in the middle: what applications see.

use super::*;
use crate::h1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Near(ClientConnection);

impl Handler for Near {
    async fn call(&self, mut request: Request) -> Response {
        request.head.headers_mut().remove_hop_by_hop(false);
        match self.0.send(&mut request).await {
            Ok(response) => response,
            Err(error) => Response::local(error.reason),
        }
    }
}

/// An application's connection to its proxy, and the connection that the other proxy makes to the
/// other application.
async fn chain() -> (DuplexStream, DuplexStream) {
    let (application, near) = tokio::io::duplex(1 << 16);
    let (far, server) = tokio::io::duplex(1 << 16);
    let far = RefCell::new(Some(h1::ClientConnection::new(Stream::Duplex(far), Rc::default())));
    let far = Rc::new(far);
    let (client, _server) = pair(Settings::mesh(), move |mut request| {
        let connection = far.borrow_mut().take();
        async move {
            request.head.headers_mut().remove_hop_by_hop(false);
            connection.unwrap().send(&mut request, None).await.unwrap()
        }
    })
    .await;
    drop(spawn_local("near", async move {
        let limits = crate::http::Limits::default();
        let _ = h1::serve(Stream::Duplex(near), &Near(client), &limits, &h1::NoDrain).await;
    }));
    (application, server)
}

async fn read_until(stream: &mut DuplexStream, end: &[u8]) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn heads_pass_as_they_were_written() {
    run(async {
        let (mut application, mut server) = chain().await;
        let asked = "POST /a%20b?c HTTP/1.1\r\nHost: shop:80\r\nUser-Agent: x\r\nX-CamelCase-ID: 1\r\nx-lower: 2\r\n\
                     Cookie: a=1; b=2\r\nContent-Length: 5\r\n\r\nhello";
        application.write_all(asked.as_bytes()).await.unwrap();
        let seen = read_until(&mut server, b"hello").await;
        let (mut asked, mut seen): (Vec<_>, Vec<_>) = (asked.lines().collect(), seen.lines().collect());
        assert_eq!(seen[..2], asked[..2]);
        // HTTP/2 has no place for the order of Content-Length, which every hop writes itself.
        asked.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, asked);

        let answer = "HTTP/1.1 200 Fine By Me\r\nServer: x\r\nETag: \"a\"\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
                      x-lower: y\r\nContent-Length: 4\r\n\r\nyes!";
        server.write_all(answer.as_bytes()).await.unwrap();
        let seen = read_until(&mut application, b"yes!").await;
        assert_eq!(seen.lines().next(), answer.lines().next());
        let (mut answer, mut seen): (Vec<_>, Vec<_>) = (answer.lines().collect(), seen.lines().collect());
        answer.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, answer);
    });
}

#[test]
fn chunks_and_trailers_pass() {
    run(async {
        let (mut application, mut server) = chain().await;
        let asked = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n";
        application.write_all(asked.as_bytes()).await.unwrap();
        let head = read_until(&mut server, b"\r\n\r\n").await;
        assert!(head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{head}");
        application.write_all(b"3\r\nabc\r\n").await.unwrap();
        assert_eq!(read_until(&mut server, b"abc\r\n").await, "3\r\nabc\r\n");
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n";
        server.write_all(answer.as_bytes()).await.unwrap();
        let seen = read_until(&mut application, b"hi\r\n").await;
        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
        application.write_all(b"0\r\nx-sum: 1\r\n\r\n").await.unwrap();
        assert_eq!(read_until(&mut server, b"\r\n\r\n").await, "0\r\nx-sum: 1\r\n\r\n");
        server.write_all(b"0\r\nx-end: 2\r\n\r\n").await.unwrap();
        assert_eq!(read_until(&mut application, b"\r\n\r\n").await, "0\r\nx-end: 2\r\n\r\n");
    });
}

#[test]
fn an_application_that_leaves_takes_its_request_back_on_every_hop() {
    run(async {
        let (mut application, mut server) = chain().await;
        application.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        read_until(&mut server, b"\r\n\r\n").await;
        drop(application);
        // The far proxy closes the connection it made for the request.
        assert_eq!(server.read(&mut [0; 16]).await.unwrap(), 0);
    });
}
