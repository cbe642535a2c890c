use super::testing::{Authority, Clock, Wanted, now};
use super::verify::{Side, Trust, Verifier, VerifyError};
use super::*;
use crate::stream::Stream;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::CertificateDer;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_model::reason::Reason;

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const SECOND: Duration = Duration::from_secs(1);

fn verifier(authorities: &[&Authority]) -> Verifier {
    let bundles: Vec<_> = authorities.iter().map(|authority| authority.bundle()).collect();
    Verifier::new(Trust::new(&bundles).unwrap(), Some("cluster.local"), &provider())
}

/// `[6] "…"`, as it stands in a subject alternative name.
fn name(tag: u8, text: &[u8]) -> Vec<u8> {
    [&[0x80 | tag, u8::try_from(text.len()).unwrap()], text].concat()
}

fn names(all: &[Vec<u8>]) -> Option<Vec<u8>> {
    let content = all.concat();
    Some([&[0x30, u8::try_from(content.len()).unwrap()], &content[..]].concat())
}

#[test]
fn certificates_are_judged_as_spiffe_says() {
    let authority = Authority::new("cluster.local");
    let other = Authority::new("cluster.local");
    let foreign = Authority::new("elsewhere.test");
    let verifier = verifier(&[&authority, &foreign]);
    let of = |wanted: Wanted| authority.make(&wanted).chain;
    let judged =
        |chain: Vec<CertificateDer<'static>>| verifier.check(&chain, Side::Client, now()).map(|_| ());

    assert_eq!(judged(of(Wanted::default())), Ok(()));
    assert_eq!(
        judged(of(Wanted { dns: vec!["cart.shop"], ..Wanted::default() })),
        Ok(()),
        "a DNS name besides"
    );
    assert_eq!(judged(of(Wanted { usages: vec![], ..Wanted::default() })), Ok(()), "no usage said");
    assert_eq!(
        judged(foreign.make(&Wanted::of("spiffe://elsewhere.test/ns/a/sa/b")).chain),
        Ok(()),
        "another trusted domain"
    );

    let names_error = |why| Err(VerifyError::Names(why));
    assert_eq!(judged(Vec::new()), Err(VerifyError::Unreadable), "no certificate");
    assert_eq!(judged(other.make(&Wanted::default()).chain), Err(VerifyError::UnknownIssuer), "wrong CA");
    assert_eq!(judged(of(Wanted { uris: vec![CART, WEB], ..Wanted::default() })), names_error("several"));
    assert_eq!(judged(of(Wanted { uris: vec![CART, CART], ..Wanted::default() })), names_error("several"));
    assert_eq!(
        judged(of(Wanted { uris: vec![CART, "https://cart.shop"], ..Wanted::default() })),
        names_error("several"),
        "a URI of another kind besides"
    );
    assert_eq!(
        judged(of(Wanted { uris: vec![], dns: vec!["cart.shop"], ..Wanted::default() })),
        names_error("none")
    );
    assert_eq!(judged(of(Wanted { uris: vec![], ..Wanted::default() })), names_error("none"));
    let unreadable = names(&[name(6, CART.as_bytes()), name(6, b"spiffe://cluster.local/ns/shop/sa/w\xffb")]);
    assert_eq!(
        judged(of(Wanted { names: unreadable, ..Wanted::default() })),
        names_error("a name cannot be read"),
        "a second URI that is not text"
    );
    let truncated = Some([&[0x30, 0x40][..], &name(6, CART.as_bytes())].concat());
    assert!(judged(of(Wanted { names: truncated, ..Wanted::default() })).is_err(), "names that do not parse");

    let expired = Wanted { not_before: now() - 100 * SECOND, not_after: now() - SECOND, ..Wanted::default() };
    assert_eq!(judged(of(expired)), Err(VerifyError::Expired));
    let early = Wanted { not_before: now() + 100 * SECOND, ..Wanted::default() };
    assert_eq!(judged(of(early)), Err(VerifyError::NotYetValid));
    let wrong_use = Wanted { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Wanted::default() };
    assert_eq!(judged(of(wrong_use)), Err(VerifyError::Purpose));
    assert!(matches!(
        judged(of(Wanted { authority: true, ..Wanted::default() })),
        Err(VerifyError::Chain(_))
    ));
    assert_eq!(
        judged(of(Wanted::of("spiffe://unknown.test/ns/shop/sa/cart"))),
        Err(VerifyError::TrustDomain("unknown.test".to_owned()))
    );
    assert_eq!(
        judged(foreign.make(&Wanted::default()).chain),
        Err(VerifyError::UnknownIssuer),
        "a trusted authority that vouches for another's domain"
    );
    for bad in
        ["spiffe://cluster.local/cart", "spiffe://cluster.local/ns/shop/sa/cart/x", "https://cart.shop"]
    {
        let judged = judged(of(Wanted { uris: vec![bad], ..Wanted::default() }));
        assert!(matches!(judged, Err(VerifyError::Identity(_))), "{bad} {judged:?}");
    }
}

#[test]
fn garbage_is_not_a_certificate_wherever_it_is_cut_or_changed() {
    let authority = Authority::new("cluster.local");
    let verifier = verifier(&[&authority]);
    let whole = authority.make(&Wanted::default()).chain.remove(0);
    for end in 0..whole.len() {
        let cut = CertificateDer::from(whole[..end].to_vec());
        assert!(verifier.check(&[cut], Side::Client, now()).is_err(), "{end}");
    }
    for flipped in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[flipped] ^= 0x55;
        // Must not panic; nothing signed can change and be believed.
        let judged = verifier.check(&[CertificateDer::from(bytes)], Side::Client, now());
        assert!(judged.is_err(), "{flipped}");
    }
    let trailing = CertificateDer::from([&whole[..], b"x"].concat());
    assert_eq!(verifier.check(&[trailing], Side::Client, now()).map(|_| ()), Err(VerifyError::Unreadable));
}

#[test]
fn a_description_is_believed_of_the_own_trust_domain_only() {
    let (authority, foreign) = (Authority::new("cluster.local"), Authority::new("elsewhere.test"));
    let verifier = verifier(&[&authority, &foreign]);
    let wanted = Wanted { uid: Some("shop/cart-1"), ..Wanted::default() };
    let leaf = verifier.check(&authority.make(&wanted).chain, Side::Client, now()).unwrap();
    assert_eq!(&*verifier.description(&leaf).app, "cart");
    assert_eq!(verifier.uid(&leaf).map(ToString::to_string).as_deref(), Some("shop/cart-1"));
    let wanted = Wanted { uid: Some("shop/cart-1"), ..Wanted::of("spiffe://elsewhere.test/ns/shop/sa/cart") };
    let leaf = verifier.check(&foreign.make(&wanted).chain, Side::Client, now()).unwrap();
    assert_eq!(&*verifier.description(&leaf).app, "unknown");
    assert_eq!(verifier.uid(&leaf), None);
}

#[test]
fn a_chain_that_is_known_is_still_judged_by_time_and_use() {
    let authority = Authority::new("cluster.local");
    let verifier = verifier(&[&authority]);
    // The clock is read once: a second may begin at any time, and the bounds are exact.
    let at = now();
    let wanted = Wanted {
        not_before: at - 120 * SECOND,
        not_after: at + 3600 * SECOND,
        usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
        ..Wanted::default()
    };
    let chain = authority.make(&wanted).chain;
    let judged = |chain: &[CertificateDer<'static>], side, at| verifier.check(chain, side, at).map(|_| ());
    let first = verifier.check(&chain, Side::Client, at).unwrap();
    assert!(Arc::ptr_eq(&first, &verifier.check(&chain, Side::Client, at).unwrap()));
    assert_eq!(judged(&chain, Side::Server, at), Err(VerifyError::Purpose));
    assert_eq!(judged(&chain, Side::Client, at + 3600 * SECOND), Ok(()));
    assert_eq!(judged(&chain, Side::Client, at + 3601 * SECOND), Err(VerifyError::Expired));
    assert_eq!(judged(&chain, Side::Client, at - 120 * SECOND), Ok(()));
    assert_eq!(judged(&chain, Side::Client, at - 121 * SECOND), Err(VerifyError::NotYetValid));
    assert_eq!(judged(&chain, Side::Client, at), Ok(()));
    let stranger = Authority::new("cluster.local").make(&wanted).chain;
    assert_eq!(judged(&stranger, Side::Client, at), Err(VerifyError::UnknownIssuer));
}

#[test]
fn what_is_known_has_a_bound() {
    let authority = Authority::new("cluster.local");
    let verifier = verifier(&[&authority]);
    for _ in 0..600 {
        let chain = authority.make(&Wanted::default()).chain;
        verifier.check(&chain, Side::Client, now()).unwrap();
    }
    assert!(verifier.known_count() <= 512);
}

/// Two proxies of one mesh, with one clock.
struct Pair {
    authority: Authority,
    clock: Arc<Clock>,
    server: Tls,
    client: Tls,
}

impl Pair {
    fn new() -> Self {
        let clock = Arc::new(Clock::new());
        let pair = Self {
            authority: Authority::new("cluster.local"),
            server: Tls::with_clock(clock.clone()),
            client: Tls::with_clock(clock.clone()),
            clock,
        };
        pair.certify(&pair.server, &Wanted { uid: Some("shop/cart-1"), ..Wanted::default() });
        pair.certify(&pair.client, &Wanted { uid: Some("shop/web-1"), ..Wanted::of(WEB) });
        pair
    }

    fn certify(&self, tls: &Tls, wanted: &Wanted) {
        tls.set_certificate(self.authority.own(wanted), self.authority.bundle()).unwrap();
    }

    fn connector(&self) -> Arc<Connector> {
        self.client.connector(&CART.parse().unwrap(), &"shop/cart-1".parse().unwrap())
    }

    async fn meet(
        &self,
        connector: &Connector,
        alpn: MeshAlpn,
    ) -> (Result<Accepted, AcceptError>, Result<Stream, ConnectError>) {
        let (near, far) = tcp_pair().await;
        let server = async {
            let mut accepted = self.server.accept(far, soon()).await;
            if let Ok(accepted) = &mut accepted {
                // Brings the client its ticket, unless it has hung up.
                let _ = accepted.stream.write_all(b"x").await;
                let _ = accepted.stream.flush().await;
            }
            accepted
        };
        let client = async {
            let mut stream = connector.connect(near, "80.cart.shop", alpn, soon()).await?;
            let mut byte = [0];
            // Fails where the server refuses after the handshake, as TLS 1.3 has it.
            stream.read_exact(&mut byte).await.map_err(ConnectError::Handshake)?;
            Ok(stream)
        };
        tokio::join!(server, client)
    }
}

fn soon() -> Instant {
    Instant::now() + 20 * SECOND
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

#[tokio::test]
async fn both_sides_prove_who_they_are_and_what_the_connection_is_for() {
    let pair = Pair::new();
    for alpn in MeshAlpn::ALL {
        let (accepted, connected) = pair.meet(&pair.connector(), alpn).await;
        let (accepted, connected) = (accepted.unwrap(), connected.unwrap());
        assert_eq!(accepted.peer.identity.as_str(), WEB);
        assert_eq!(accepted.peer.uid.as_ref().map(ToString::to_string).as_deref(), Some("shop/web-1"));
        assert_eq!(&*accepted.peer.description.app, "cart");
        assert_eq!((accepted.alpn, accepted.resumed), (alpn, false));
        assert_eq!(accepted.server_name.to_string(), "80.cart.shop");
        let Stream::TlsClient(tls) = connected else { panic!("not TLS") };
        let group = tls.get_ref().1.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
        assert_eq!(tls.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
}

#[tokio::test]
async fn a_session_is_resumed_with_the_same_endpoint_and_judged_again() {
    let pair = Pair::new();
    let connector = pair.connector();
    let (first, _client) = pair.meet(&connector, MeshAlpn::H2).await;
    assert!(!first.unwrap().resumed);
    let (second, client) = pair.meet(&connector, MeshAlpn::Http1).await;
    let second = second.unwrap();
    client.unwrap();
    assert!(second.resumed);
    assert_eq!(second.peer.identity.as_str(), WEB);
    assert_eq!(second.peer.uid.as_ref().map(ToString::to_string).as_deref(), Some("shop/web-1"));
    // Another endpoint of the same service has sessions of its own.
    let (third, _client) = pair.meet(&pair.connector(), MeshAlpn::H2).await;
    assert!(!third.unwrap().resumed);
}

#[tokio::test]
async fn a_session_is_not_resumed_with_an_endpoint_of_another_identity_or_workload() {
    let pair = Pair::new();
    let (first, _client) = pair.meet(&pair.connector(), MeshAlpn::Tcp).await;
    assert!(!first.unwrap().resumed);
    // The same server under the same name, but who is meant is somebody else: a full handshake, and refused.
    for (identity, uid) in [(WEB, "shop/cart-1"), (CART, "shop/cart-2")] {
        let other = pair.client.connector(&identity.parse().unwrap(), &uid.parse().unwrap());
        let (accepted, connected) = pair.meet(&other, MeshAlpn::Tcp).await;
        assert!(accepted.is_ok_and(|accepted| !accepted.resumed));
        assert_eq!(connected.unwrap_err().reason(), Reason::PeerIdentityMismatch);
    }
}

#[tokio::test]
async fn without_resumption_either_side_makes_every_handshake_a_full_one() {
    for server_refuses in [true, false] {
        let mut pair = Pair::new();
        let refusing = Tls::with(pair.clock.clone(), false);
        if server_refuses {
            pair.certify(&refusing, &Wanted::default());
            pair.server = refusing;
        } else {
            pair.certify(&refusing, &Wanted::of(WEB));
            pair.client = refusing;
        }
        let connector = pair.connector();
        for _ in 0..3 {
            let (accepted, connected) = pair.meet(&connector, MeshAlpn::Tcp).await;
            assert!(!accepted.unwrap().resumed);
            connected.unwrap();
        }
    }
}

#[tokio::test]
async fn a_resumed_client_whose_certificate_has_expired_is_refused() {
    let pair = Pair::new();
    let soon_over = Wanted { not_after: now() + 60 * SECOND, ..Wanted::of(WEB) };
    pair.certify(&pair.client, &soon_over);
    let connector = pair.connector();
    let (first, _client) = pair.meet(&connector, MeshAlpn::H2).await;
    first.unwrap();
    pair.clock.advance(100 * SECOND);
    // The client's own check comes first; past it, the server's holds.
    let (near, far) = tcp_pair().await;
    let server = pair.server.accept(far, soon());
    let (accepted, connected) =
        tokio::join!(server, connector.connect(near, "80.cart.shop", MeshAlpn::H2, soon()));
    assert!(matches!(connected, Err(ConnectError::OwnCertificateExpired)), "{connected:?}");
    assert!(accepted.is_err());
}

#[tokio::test]
async fn a_server_judges_a_resumed_chain_by_the_clock_of_now() {
    // The client's clock stands still, as a client's that does not check itself.
    let authority = Authority::new("cluster.local");
    let clock = Arc::new(Clock::new());
    let pair = Pair { server: Tls::with_clock(clock.clone()), client: Tls::new(), clock, authority };
    pair.certify(&pair.server, &Wanted::default());
    pair.certify(&pair.client, &Wanted { not_after: now() + 60 * SECOND, ..Wanted::of(WEB) });
    let connector = pair.connector();
    pair.meet(&connector, MeshAlpn::H2).await.0.unwrap();
    assert!(pair.meet(&connector, MeshAlpn::H2).await.0.unwrap().resumed);
    pair.clock.advance(100 * SECOND);
    let (accepted, connected) = pair.meet(&connector, MeshAlpn::H2).await;
    assert!(matches!(accepted, Err(AcceptError::Peer(VerifyError::Expired))), "{accepted:?}");
    assert_eq!(accepted.unwrap_err().label(), "peer_cert_expired");
    assert!(connected.is_err());
}

#[tokio::test]
async fn no_session_outlives_a_change_of_trust_or_certificate() {
    let pair = Pair::new();
    let connector = pair.connector();
    pair.meet(&connector, MeshAlpn::H2).await.0.unwrap();
    let version = pair.server.version();
    // The same bundle told again changes nothing.
    let own: TrustDomain = "cluster.local".parse().unwrap();
    let bundle = Arc::new(pair.authority.bundle());
    let told = BTreeMap::from([(own.clone(), Some(bundle.clone()))]);
    pair.server.set_bundles(told.clone()).unwrap();
    let changed = pair.server.version();
    assert!(changed > version);
    pair.server.set_bundles(told.clone()).unwrap();
    assert_eq!(pair.server.version(), changed);
    assert!(!pair.meet(&connector, MeshAlpn::H2).await.0.unwrap().resumed, "the server's trust changed");
    assert!(pair.meet(&connector, MeshAlpn::H2).await.0.unwrap().resumed);
    pair.certify(&pair.client, &Wanted::of(WEB));
    assert!(
        !pair.meet(&connector, MeshAlpn::H2).await.0.unwrap().resumed,
        "the client's certificate changed"
    );

    // A bundle that is not understood means that nobody of the domain is believed.
    pair.server.set_bundles(BTreeMap::from([(own, None)])).unwrap();
    let (accepted, _) = pair.meet(&connector, MeshAlpn::H2).await;
    assert_eq!(accepted.unwrap_err().label(), "peer_not_trusted");
    assert!(pair.server.trust_domains().is_empty());
}

#[tokio::test]
async fn a_server_that_is_somebody_else_gets_no_request() {
    let pair = Pair::new();
    let wrong = pair.client.connector(&WEB.parse().unwrap(), &"shop/cart-1".parse().unwrap());
    let (_, connected) = pair.meet(&wrong, MeshAlpn::H2).await;
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::Identity { .. }), "{error}");
    assert_eq!(error.reason(), Reason::PeerIdentityMismatch);

    let reused = pair.client.connector(&CART.parse().unwrap(), &"shop/cart-2".parse().unwrap());
    let (_, connected) = pair.meet(&reused, MeshAlpn::H2).await;
    let error = connected.unwrap_err();
    assert_eq!(error.to_string(), "the server is the workload shop/cart-1, not shop/cart-2");
    assert_eq!(error.reason(), Reason::PeerIdentityMismatch);

    let liar = Authority::new("cluster.local");
    pair.server.set_certificate(liar.own(&Wanted::default()), pair.authority.bundle()).unwrap();
    let (_, connected) = pair.meet(&pair.connector(), MeshAlpn::H2).await;
    assert_eq!(connected.unwrap_err().reason(), Reason::PeerIdentityMismatch);
}

#[tokio::test]
async fn without_a_certificate_nothing_is_accepted_or_connected() {
    let pair = Pair::new();
    let bare = Tls::new();
    let (near, far) = tcp_pair().await;
    assert!(matches!(bare.accept(far, soon()).await, Err(AcceptError::NoCertificate)));
    let connector = bare.connector(&CART.parse().unwrap(), &"shop/cart-1".parse().unwrap());
    let connected = connector.connect(near, "80.cart.shop", MeshAlpn::H2, soon()).await;
    assert!(matches!(connected, Err(ConnectError::NoCertificate)));
    // The same connector works as soon as there is one.
    pair.certify(&bare, &Wanted::of(WEB));
    let pair = Pair { client: bare, ..pair };
    pair.meet(&connector, MeshAlpn::H2).await.1.unwrap();
}

/// A TLS client as anybody could write it.
async fn foreign(
    pair: &Pair,
    alpn: &[&[u8]],
    server_name: &str,
    own: Option<Arc<OwnResolver>>,
) -> Result<Accepted, AcceptError> {
    let bundles = [pair.authority.bundle()];
    let verifier = Arc::new(Verifier::new(Trust::new(&bundles).unwrap(), None, &provider()));
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(own),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    let (near, far) = tcp_pair().await;
    let name = rustls::pki_types::ServerName::try_from(server_name.to_owned()).unwrap();
    let client = async {
        let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, near).await;
        if let Ok(mut stream) = connected {
            let _ = stream.read(&mut [0]).await;
        }
    };
    let server = pair.server.accept(far, soon());
    tokio::pin!(client);
    tokio::select! {
        accepted = server => accepted,
        // The client saw the end first; the server is about to.
        () = &mut client => panic!("the client ended before the server judged"),
    }
}

#[tokio::test]
async fn a_client_outside_the_mesh_is_refused_with_a_label() {
    let pair = Pair::new();
    let own = || pair.client.certificate();
    let h2: &[u8] = b"weft1-h2";
    for (accepted, label) in [
        (foreign(&pair, &[h2], "80.cart.shop", None).await, "no_client_certificate"),
        (foreign(&pair, &[b"h2"], "80.cart.shop", own()).await, "alpn"),
        (foreign(&pair, &[], "80.cart.shop", own()).await, "alpn"),
        (foreign(&pair, &[h2], "cart.example.com", own()).await, "server_name"),
        (foreign(&pair, &[h2], "127.0.0.1", own()).await, "server_name"),
    ] {
        assert_eq!(accepted.map(|_| ()).map_err(|error| error.label()), Err(label));
    }
    let accepted = foreign(&pair, &[b"http/1.1", h2], "80.cart.shop", own()).await.unwrap();
    assert_eq!(accepted.alpn, MeshAlpn::H2);
}

#[tokio::test]
async fn a_handshake_ends_by_its_deadline() {
    let pair = Pair::new();
    let (_silent, far) = tcp_pair().await;
    let accepted = pair.server.accept(far, Instant::now() + Duration::from_millis(20)).await;
    assert_eq!(accepted.unwrap_err().label(), "timeout");
    let (near, _silent) = tcp_pair().await;
    let connected = pair
        .connector()
        .connect(near, "80.cart.shop", MeshAlpn::H2, Instant::now() + Duration::from_millis(20))
        .await;
    assert_eq!(connected.unwrap_err().reason(), Reason::ConnectTimeout);
}

#[test]
fn the_control_api_is_told_by_the_roots_or_by_the_setting() {
    let authority = Authority::new("mesh.test");
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("roots.pem");
    let error = authority::client_config(&roots, None, None).unwrap_err();
    assert!(error.to_string().contains("(control.roots)"), "{error}");
    std::fs::write(&roots, "no certificate").unwrap();
    assert!(authority::client_config(&roots, None, None).unwrap_err().to_string().contains("no certificate"));
    std::fs::write(&roots, authority.root_pem()).unwrap();
    let config = authority::client_config(&roots, None, None).unwrap();
    assert!(config.alpn_protocols == [b"h2".to_vec()]);
}
