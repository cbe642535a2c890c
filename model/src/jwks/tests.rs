use super::*;

// RFC 7515, appendices A.2, A.3 and A.4; RFC 8037, appendix A.2: the public halves.
const RSA: &str = r#""kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB""#;
const P256: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
const P521: &str = r#""kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2""#;
const ED25519: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

fn set(keys: &[&str]) -> Result<KeySet, JwksError> {
    let keys: Vec<_> = keys.iter().map(|key| format!("{{{key}}}")).collect();
    KeySet::parse(format!(r#"{{"keys":[{}],"other":1}}"#, keys.join(",")).as_bytes())
}

fn flaw(key: &str) -> KeyError {
    let read = set(&[key]).unwrap();
    assert!(read.keys.is_empty() || matches!(read.flaws[0].error, KeyError::Duplicate(_)));
    read.flaws[0].error.clone()
}

#[test]
fn keys_of_all_types_are_read() {
    let named = format!(r#"{RSA},"kid":"rsa","alg":"RS256","use":"sig","key_ops":["verify"]"#);
    let read = set(&[&named, P256, P521, ED25519]).unwrap();
    assert!(read.flaws.is_empty(), "{:?}", read.flaws);
    let [rsa, p256, p521, ed25519] = &read.keys[..] else { panic!("{read:?}") };
    assert_eq!((rsa.id.as_deref(), rsa.algorithm), (Some("rsa"), Some(Algorithm::Rs256)));
    let fitting = |key: &Jwk| {
        let names = Algorithm::ALL.into_iter().filter(|(_, algorithm)| key.fits(*algorithm, None));
        names.map(|(name, _)| name).collect::<Vec<_>>()
    };
    // A key with an `alg` is for that one alone.
    assert_eq!(fitting(rsa), ["RS256"]);
    assert_eq!(
        (fitting(p256), fitting(p521), fitting(ed25519)),
        (vec!["ES256"], vec!["ES512"], vec!["EdDSA"])
    );
    assert!(rsa.fits(Algorithm::Rs256, Some("rsa")) && !rsa.fits(Algorithm::Rs256, Some("other")));
    // A key without a name may be any token's.
    assert!(p256.fits(Algorithm::Es256, Some("any")));
}

#[test]
fn a_set_that_gives_away_a_secret_is_refused_as_a_whole() {
    let private = format!(r#"{ED25519},"d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A""#);
    assert_eq!(set(&[P256, &private]), Err(JwksError::Secret(1)));
    assert_eq!(set(&[r#""kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ""#]), Err(JwksError::Secret(0)));
}

#[test]
fn what_is_no_set_is_refused() {
    for (text, error) in [
        (r"{}", JwksError::NoList),
        (r#"{"keys":{}}"#, JwksError::NoList),
        (r#"{"keys":[1]}"#, JwksError::NoList),
        (r"[]", JwksError::Json(JsonError::NotAnObject)),
        ("<html>", JwksError::Json(JsonError::Grammar(0))),
        (r#"{"keys":[],"keys":[]}"#, JwksError::Json(JsonError::Duplicate("keys".to_owned()))),
    ] {
        assert_eq!(KeySet::parse(text.as_bytes()), Err(error), "{text}");
    }
    assert_eq!(set(&[P256; KEYS_MAX + 1]), Err(JwksError::TooMany));
    assert_eq!(KeySet::parse(&vec![b' '; JWKS_LENGTH_MAX + 1]), Err(JwksError::TooLarge));
}

#[test]
fn keys_that_cannot_be_used_are_left_out_and_named() {
    let with = |key: &str, more: &str| format!("{key},{more}");
    assert_eq!(flaw(&with(RSA, r#""use":"enc""#)), KeyError::Purpose);
    assert_eq!(flaw(&with(RSA, r#""key_ops":["sign"]"#)), KeyError::Purpose);
    assert_eq!(flaw(&with(RSA, r#""alg":"ES256""#)), KeyError::Algorithm("ES256".to_owned()));
    assert_eq!(flaw(&with(P256, r#""alg":"HS256""#)), KeyError::Algorithm("HS256".to_owned()));
    assert_eq!(flaw(r#""kty":"XYZ""#), KeyError::Type("XYZ".to_owned()));
    assert_eq!(flaw(r#""kty":"rsa""#), KeyError::Type("rsa".to_owned()));
    assert_eq!(flaw(r#""kty":"EC","crv":"secp256k1""#), KeyError::Curve("secp256k1".to_owned()));
    assert_eq!(flaw(r#""kty":"OKP","crv":"X25519","x":"a""#), KeyError::Curve("X25519".to_owned()));
    assert_eq!(flaw(&P256.replace("x_FE", "_FE")), KeyError::Member("y"));
    assert_eq!(flaw(&RSA.replace("AQAB", "AQ")), KeyError::Member("e"));
    assert_eq!(flaw(&RSA.replace("AQAB", "AAAA")), KeyError::Member("e"));
    assert_eq!(flaw(&RSA.replace("AQAB", "Ag")), KeyError::Member("e"));
    assert_eq!(flaw(r#""kty":"RSA","e":"AQAB""#), KeyError::Member("n"));
    let weak = URL_SAFE_NO_PAD.encode([0xff; 128]);
    assert_eq!(flaw(&format!(r#""kty":"RSA","n":"{weak}","e":"AQAB""#)), KeyError::Length(1024));
    let huge = URL_SAFE_NO_PAD.encode(vec![0xff; 1025]);
    assert_eq!(flaw(&format!(r#""kty":"RSA","n":"{huge}","e":"AQAB""#)), KeyError::Length(8200));
    let named = with(P256, r#""kid":"a""#);
    let twice = set(&[&named, &with(ED25519, r#""kid":"a""#)]).unwrap();
    assert_eq!(twice.flaws, [KeyFlaw { index: 1, error: KeyError::Duplicate("a".to_owned()) }]);
    assert_eq!(twice.keys.len(), 2);
}

#[test]
fn leading_zeros_do_not_make_a_key_longer() {
    let zeros = [&[0; 128][..], &[0xff; 128]].concat();
    assert_eq!(KeyMaterial::rsa(&zeros, &[1, 0, 1]), Err(KeyError::Length(1024)));
    assert_eq!(KeyMaterial::rsa(&[0; 512], &[1, 0, 1]), Err(KeyError::Length(0)));
}
