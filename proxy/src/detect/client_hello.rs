//! The first message of a TLS client (RFC 8446, section 4.1.2), as far as it says where it wants to go.
//!
//! Sans-I/O and bounded: it reads the server name and the protocols that are offered, allocates for a
//! server name alone, and takes nothing away. It judges nobody: what is no ClientHello is only said to
//! be none, and a server name is believed by no one until a policy or a certificate says so.

/// The most that is looked at: one record of the largest size. Post-quantum key shares and a ticket that
/// holds a certificate chain make some four kilobytes.
pub const CLIENT_HELLO_MAX: usize = 5 + (1 << 14);

/// The longest name that DNS has.
const SERVER_NAME_MAX: usize = 253;

/// Record type "handshake".
const HANDSHAKE: u8 = 22;

/// Handshake type "client_hello".
const CLIENT_HELLO: u8 = 1;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What a client's first message says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientHello {
    /// Whether it was read; else the connection only begins as TLS does.
    pub whole: bool,
    /// Whether it offers a protocol of the mesh, so that it is for the proxy and not for the
    /// application.
    pub mesh: bool,
    /// The server that it names, in lower case. Only what could be a host's name is noted, and
    /// nothing where the connection is the mesh's.
    pub server_name: Option<Box<str>>,
}

/// What the bytes so far are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Read {
    /// A part of a ClientHello, perhaps.
    More,
    /// A ClientHello.
    Whole(ClientHello),
    /// Something else.
    Other,
}

/// Reads from the beginning of a connection.
pub fn read(bytes: &[u8]) -> Read {
    match bytes {
        [HANDSHAKE, 3, 0..=4, ..] | [HANDSHAKE, 3] | [HANDSHAKE] | [] => {}
        _ => return Read::Other,
    }
    let mut joined = Vec::new();
    let message = match handshake(bytes, &mut joined) {
        Ok(message) => message,
        Err(read) => return read,
    };
    match hello(message) {
        Some(hello) => Read::Whole(hello),
        None => Read::Other,
    }
}

/// The handshake message, which may be cut over several records. `joined` is used only then.
fn handshake<'a>(bytes: &'a [u8], joined: &'a mut Vec<u8>) -> Result<&'a [u8], Read> {
    let mut rest = bytes;
    let mut first = true;
    loop {
        let Some((body, after, whole)) = record(rest) else {
            // Within the head of a record: what came before may have told already.
            return Err(later(joined, bytes));
        };
        if body.is_empty() && whole {
            // Forbidden, and a way to make us look for ever.
            return Err(Read::Other);
        }
        if first && (whole_message(body).is_some() || !whole) {
            return whole_message(body).ok_or_else(|| later(body, bytes));
        }
        first = false;
        joined.extend_from_slice(body);
        if whole_message(joined).is_some() {
            break;
        }
        if !whole {
            return Err(later(joined, bytes));
        }
        match after {
            [] => return Err(later(joined, bytes)),
            [HANDSHAKE, ..] => rest = after,
            _ => return Err(Read::Other),
        }
    }
    whole_message(joined).ok_or(Read::Other)
}

/// More may come, unless what is here is no ClientHello already or is too long to be one.
fn later(message: &[u8], bytes: &[u8]) -> Read {
    let begins = matches!(message, [] | [CLIENT_HELLO] | [CLIENT_HELLO, 0, ..]);
    if begins && bytes.len() < CLIENT_HELLO_MAX { Read::More } else { Read::Other }
}

/// A record's body as far as it is here, what follows it, and whether it is whole.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], bool)> {
    let (head, rest) = bytes.split_at_checked(5)?;
    let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
    match rest.split_at_checked(length) {
        Some((body, after)) => Some((body, after, true)),
        None => Some((rest, &[], false)),
    }
}

/// The body of a ClientHello that is here whole.
fn whole_message(bytes: &[u8]) -> Option<&[u8]> {
    let (head, rest) = bytes.split_at_checked(4)?;
    let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
    (head[0] == CLIENT_HELLO).then(|| rest.get(..length)).flatten()
}

fn hello(message: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(message);
    // Version and random.
    reader.take(2 + 32)?;
    // Session id, cipher suites, compression methods.
    reader.short()?;
    reader.long()?;
    reader.short()?;
    let mut hello = ClientHello { whole: true, ..ClientHello::default() };
    if reader.0.is_empty() {
        // A client of before extensions.
        return Some(hello);
    }
    let mut extensions = Reader(reader.long()?);
    let mut named = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let body = extensions.long()?;
        match kind {
            SERVER_NAME => named = Some(body),
            ALPN => hello.mesh = offers_mesh(body)?,
            _ => {}
        }
    }
    if !hello.mesh {
        hello.server_name = named.and_then(server_name);
    }
    Some(hello)
}

/// Any of the mesh's protocols: a client of the mesh offers exactly one, and which is for the
/// handshake to say.
fn offers_mesh(body: &[u8]) -> Option<bool> {
    let mut protocols = Reader(Reader(body).long()?);
    let mut mesh = false;
    while !protocols.0.is_empty() {
        let protocol = protocols.short()?;
        mesh |= [weft_model::ALPN_H2, weft_model::ALPN_HTTP1, weft_model::ALPN_TCP].contains(&protocol);
    }
    Some(mesh)
}

fn server_name(body: &[u8]) -> Option<Box<str>> {
    let mut names = Reader(Reader(body).long()?);
    let (kind, name) = (names.take(1)?, names.long()?);
    let fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if kind != [0] || name.is_empty() || name.len() > SERVER_NAME_MAX || !name.iter().all(fit) {
        return None;
    }
    Some(std::str::from_utf8(name).ok()?.to_ascii_lowercase().into())
}

/// Takes from the front, never more than there is.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A field with one byte of length.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    /// A field with two bytes of length.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use std::sync::Arc;

    /// What a real client sends.
    pub(in crate::detect) fn sent(server_name: &str, alpn: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(crate::tls::provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn whole(server_name: Option<&str>, mesh: bool) -> Read {
        Read::Whole(ClientHello { whole: true, mesh, server_name: server_name.map(Into::into) })
    }

    /// The same message, cut into records of this size.
    fn cut(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut all = Vec::new();
        for piece in bytes[5..].chunks(size) {
            all.extend_from_slice(&[22, 3, 1]);
            all.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
            all.extend_from_slice(piece);
        }
        all
    }

    #[test]
    fn a_real_clients_names_are_read() {
        assert_eq!(read(&sent("DB.Example.com", &[b"h2"])), whole(Some("db.example.com"), false));
        assert_eq!(read(&sent("db.example.com", &[])), whole(Some("db.example.com"), false));
        assert_eq!(read(&sent("10.0.0.1", &[])), whole(None, false));
        for protocol in [weft_model::ALPN_H2, weft_model::ALPN_HTTP1, weft_model::ALPN_TCP] {
            assert_eq!(read(&sent("80.cart.shop", &[protocol])), whole(None, true));
        }
        assert_eq!(read(&sent("a.example", &[b"h2", weft_model::ALPN_TCP])), whole(None, true));
        assert_eq!(read(&sent("a.example", &[b"weft2-tcp"])), whole(Some("a.example"), false));
    }

    #[test]
    fn every_piece_of_one_asks_for_more() {
        let bytes = sent("db.example.com", &[b"h2"]);
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), Read::More, "{length}");
        }
        for size in [1, 3, 64, 1000] {
            let cut = cut(&bytes, size);
            assert_eq!(read(&cut), whole(Some("db.example.com"), false), "{size}");
            for length in 0..cut.len() {
                assert_eq!(read(&cut[..length]), Read::More, "{size} {length}");
            }
        }
    }

    #[test]
    fn what_follows_it_changes_nothing() {
        let mut bytes = sent("db.example.com", &[]);
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(read(&bytes), whole(Some("db.example.com"), false));
    }

    #[test]
    fn what_is_none_is_said_to_be_none() {
        let hello = sent("db.example.com", &[]);
        let mut server_hello = hello.clone();
        server_hello[5] = 2;
        let mut old = hello.clone();
        old[1] = 2;
        let empty_record = [22, 3, 1, 0, 0];
        for bytes in [&server_hello[..], &old, &empty_record, b"GET / HTTP/1.1\r\n", &[23, 3, 3, 0, 1, 0]] {
            assert_eq!(read(bytes), Read::Other, "{bytes:?}");
        }
        // Nor does the head of a record that begins behind what tells make it unsaid.
        let told = [22, 3, 1, 0, 1, 0];
        for more in [&[][..], &[22], &[22, 3], &[22, 3, 1, 0]] {
            assert_eq!(read(&[&told, more].concat()), Read::Other, "{more:?}");
        }
        // Lengths that lead outside of the message.
        for at in 43..hello.len().min(400) {
            let mut broken = hello.clone();
            broken[at] ^= 0xff;
            let _ = read(&broken);
        }
    }

    #[test]
    fn a_length_that_never_comes_is_not_waited_for() {
        // A message of sixteen megabytes, in records that all come.
        let mut bytes = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
        bytes.resize(CLIENT_HELLO_MAX - 1, 0);
        assert_eq!(read(&bytes), Read::More);
        bytes.resize(CLIENT_HELLO_MAX, 0);
        assert_eq!(read(&bytes), Read::Other);
    }

    #[test]
    fn a_name_that_is_none_is_not_noted() {
        let name = |name: &[u8]| {
            let length = u16::try_from(name.len()).unwrap();
            let mut body = (length + 3).to_be_bytes().to_vec();
            body.push(0);
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(name);
            server_name(&body)
        };
        assert_eq!(name(b"A_b-c.example").as_deref(), Some("a_b-c.example"));
        for bad in [&b""[..], b"a b", b"a\nb", b"\xff", &[b'a'; 254]] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
    }
}
