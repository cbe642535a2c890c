"""Tokens of PyJWT for every algorithm that the mesh accepts, and forgeries: JSON on standard output.

    mint_tokens.py ISSUER

`jwks`: the public keys. `good`: by algorithm, signed as it should be. `bad`: by what is wrong with it.
"""

import base64
import hashlib
import hmac
import json
import sys
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


def key_of(algorithm):
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm]), ECAlgorithm
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm
    return rsa.generate_private_key(public_exponent=65537, key_size=2048), RSAAlgorithm


def encode(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


now = int(time.time())
claims = {"iss": sys.argv[1], "sub": "joe", "iat": now, "nbf": now, "exp": now + 600, "realm": {"roles": ["a", "b"]}}
keys, good, public = [], {}, {}
for algorithm in (*RSA, *CURVES, "EdDSA"):
    private, kind = key_of(algorithm)
    jwk = kind.to_jwk(private.public_key(), as_dict=True)
    keys.append(jwk | {"kid": algorithm, "alg": algorithm, "use": "sig"})
    public[algorithm] = private.public_key()
    good[algorithm] = jwt.encode(claims, private, algorithm, headers={"kid": algorithm})
    last = private

bad = {
    "expired": jwt.encode(claims | {"exp": now - 600}, last, "EdDSA", headers={"kid": "EdDSA"}),
    "not yet": jwt.encode(claims | {"nbf": now + 600}, last, "EdDSA", headers={"kid": "EdDSA"}),
    "another issuer": jwt.encode(claims | {"iss": "https://evil.example"}, last, "EdDSA", headers={"kid": "EdDSA"}),
    "a kid of another key": jwt.encode(claims, last, "EdDSA", headers={"kid": "ES256"}),
    "a kid of no key": jwt.encode(claims, last, "EdDSA", headers={"kid": "unknown"}),
    "unsigned": jwt.encode(claims, None, "none"),
    "critical": jwt.encode(claims, last, "EdDSA", headers={"kid": "EdDSA", "crit": ["exp"]}),
    "shared secret": jwt.encode(claims, "a secret of at least thirty-two bytes", "HS256", headers={"kid": "RS256"}),
}
# The public key as a shared secret; PyJWT refuses to sign so, others would not.
for form in (serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1):
    pem = public["RS256"].public_bytes(serialization.Encoding.PEM, form)
    signed = encode({"alg": "HS256", "typ": "JWT", "kid": "RS256"}) + b"." + encode(claims)
    forged = signed + b"." + encode(hmac.new(pem, signed, hashlib.sha256).digest())
    bad[f"key confusion, {form.name}"] = forged.decode()

json.dump({"jwks": {"keys": keys}, "good": good, "bad": bad}, sys.stdout)
