"""Makes JSON Web Tokens for tests: right ones, and ones that must not be believed."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a secret of thirty-two bytes, or of more"
OTHER_SECRET = "another secret of thirty-two bytes, or more"

RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PRIVATE_KEYS = {"RS256": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY}


def numbered(values: Sequence[Any]) -> list[Any]:
    """As parameters of a test: tokens and keys are others in each process, and names of tests must not be."""
    return [pytest.param(value, id=str(number)) for number, value in enumerate(values)]


def pem(key: Any) -> str:
    """The public key of a private one, as a file has it."""
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def private_pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def jwk(key: Any, kid: str | None = None, **parts: Any) -> dict[str, Any]:
    """The public key as a part of a set."""
    for algorithm in (RSAAlgorithm, ECAlgorithm, OKPAlgorithm):
        try:
            found: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
            break
        except Exception:  # noqa: S112 - of another kind
            continue
    return {**found, **({} if kid is None else {"kid": kid}), **parts}


def key_set(*keys: Mapping[str, Any]) -> str:
    return json.dumps({"keys": list(keys)})


def claims(**parts: Any) -> dict[str, Any]:
    """Ada's, good for an hour; None takes one out."""
    said = {"sub": "ada", "exp": int(time.time()) + 3600, **parts}
    return {name: value for name, value in said.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **parts: Any) -> str:
    return jwt.encode(claims(**parts), key, algorithm=algorithm, headers=headers)


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: Any, payload: Any = None, signature: bytes = b"") -> str:
    """Of whatever parts."""
    return f"{segment(header)}.{segment(claims() if payload is None else payload)}.{segment(signature)}"
