use super::*;
use weft_model::jwks::KeySet;

fn key(jwk: &str) -> KeyMaterial {
    let set = KeySet::parse(format!("{{\"keys\":[{jwk}]}}").as_bytes()).unwrap();
    set.keys[0].material.clone()
}

const RSA: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
const P521: &str = r#"{"kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}"#;
const ED25519_KEY: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

const CLAIMS: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

// RFC 7515, appendices A.2, A.3, A.4, and RFC 8037, appendix A.4: key, algorithm, signed, signature.
fn vectors() -> Vec<(KeyMaterial, Algorithm, String, &'static str)> {
    vec![
        (
            key(RSA),
            Algorithm::Rs256,
            format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}"),
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            key(P256),
            Algorithm::Es256,
            format!("eyJhbGciOiJFUzI1NiJ9.{CLAIMS}"),
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            key(P521),
            Algorithm::Es512,
            "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA".to_owned(),
            "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
        ),
        (
            key(ED25519_KEY),
            Algorithm::EdDsa,
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ]
}

#[test]
fn the_published_signatures_verify_and_nothing_else_does() {
    use base64::Engine;
    let decode = |text| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap();
    for (number, (key, algorithm, signed, signature)) in vectors().iter().enumerate() {
        let signature = decode(*signature);
        assert!(check(key, *algorithm, signed.as_bytes(), &signature), "{algorithm:?}");
        assert!(!check(key, *algorithm, format!("{signed}x").as_bytes(), &signature), "{algorithm:?}");
        for at in [0, signature.len() / 2, signature.len() - 1] {
            let mut bent = signature.clone();
            bent[at] ^= 1;
            assert!(!check(key, *algorithm, signed.as_bytes(), &bent), "{algorithm:?} byte {at}");
        }
        for cut in [0, 1, signature.len() - 1] {
            assert!(!check(key, *algorithm, signed.as_bytes(), &signature[..cut]), "{algorithm:?}");
        }
        // Another algorithm, with this key: never, whatever the token says.
        for (_, other) in Algorithm::ALL.into_iter().filter(|(_, other)| other != algorithm) {
            assert!(!check(key, other, signed.as_bytes(), &signature), "{algorithm:?} as {other:?}");
        }
        for (other, (key, ..)) in vectors().iter().enumerate().filter(|(other, _)| *other != number) {
            assert!(!check(key, *algorithm, signed.as_bytes(), &signature), "{number} with key {other}");
        }
    }
}

#[test]
fn a_signature_of_zeros_is_none() {
    // Some implementations of ECDSA took r = s = 0 for a signature of everything.
    for (key, algorithm, signed, _) in vectors() {
        for length in [0, 64, 96, 132, 256] {
            assert!(!check(&key, algorithm, signed.as_bytes(), &vec![0; length]), "{algorithm:?}");
        }
    }
}

#[test]
fn a_point_off_its_curve_checks_nothing() {
    let KeyMaterial::P256(point) = key(P256) else { panic!() };
    let mut off = point.to_vec();
    off[64] ^= 1;
    let (_, algorithm, signed, _) = &vectors()[1];
    assert!(!check(&KeyMaterial::P256(off.into()), *algorithm, signed.as_bytes(), &[1; 64]));
}
