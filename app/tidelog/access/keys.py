"""The keys by which tokens are verified: of a secret, a PEM file, or a JSON Web Key Set. Each has one algorithm.

That is decided by the key and never by a token: a public key can't be taken for a secret (RFC 8725 3.1).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from tidelog.errors import TokenSettingsError

SECRET_BYTES_MIN = 32  # of HS256: RFC 7518 3.2
RSA_BITS_MIN = 2048  # RFC 7518 3.3
KEYS_MAX = 100  # of a set


@dataclass(frozen=True, slots=True)
class Key:
    """One key, for one algorithm."""

    algorithm: str
    value: Any = field(repr=False)
    id: str | None = None  # `kid`, in a set


class OneKey:
    """A key that stands alone: whatever `kid` a token says, it is this."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def find(self, algorithm: object, _id: object) -> Key | None:
        return self._key if algorithm == self._key.algorithm else None


def only_fitting(keys: Iterable[Key], algorithm: object, id: object) -> Key | None:
    """The key that a token names, by its id and its algorithm; without an id the one of the algorithm, if it is one."""
    fitting = [key for key in keys if key.algorithm == algorithm and (id is None or key.id == id)]
    return fitting[0] if len(fitting) == 1 else None


def key_of_secret(secret: str) -> Key:
    """Raises TokenSettingsError if it can be guessed, or is no secret."""
    value = secret.encode()
    if b"-----BEGIN " in value:
        raise TokenSettingsError(
            "TIDELOG_JWT_SECRET is a key in PEM: put it in a file, and name that: TIDELOG_JWT_KEY_FILE"
        )
    if len(value) < SECRET_BYTES_MIN:
        raise TokenSettingsError(
            f"TIDELOG_JWT_SECRET has {len(value)} bytes: HS256 takes {SECRET_BYTES_MIN}, as a shorter one can be found "
            "by trying; `openssl rand -base64 48` makes one"
        )
    return Key("HS256", value)


def key_of_pem(text: str, where: str) -> Key:
    """Of a public key. Raises TokenSettingsError."""
    if "PRIVATE KEY-----" in text:
        raise TokenSettingsError(f"{where} is a private key: verifying takes the public one (openssl pkey -pubout)")
    try:
        value = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise TokenSettingsError(f'{where} is no public key in PEM ("-----BEGIN PUBLIC KEY-----")') from None
    algorithm = _algorithm_of(value)
    if algorithm is None:
        raise TokenSettingsError(f"{where}: a key is RSA of {RSA_BITS_MIN} bits or more, EC of P-256, or Ed25519")
    return Key(algorithm, value)


def keys_of_set(text: str | bytes, *, has_secrets: bool) -> Sequence[Key]:
    """Of a JSON Web Key Set (RFC 7517) those that can be used. Raises ValueError if it is none.

    A set that everybody may fetch has no secrets: one that is in it is left out.
    """
    whole = json.loads(text)
    given = whole.get("keys") if isinstance(whole, dict) else None
    if not isinstance(given, list) or len(given) > KEYS_MAX:
        raise ValueError(f'a JSON Web Key Set is {{"keys": [...]}}, of up to {KEYS_MAX}')
    found = [_key_of(one, has_secrets) for one in given if isinstance(one, dict)]
    return tuple(key for key in found if key is not None)


def _key_of(given: dict[str, Any], has_secrets: bool) -> Key | None:
    """None if it is not for verifying signatures, or of a kind that isn't used."""
    id = given.get("kid")
    operations = given.get("key_ops", ["verify"])
    if given.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    if id is not None and not isinstance(id, str):
        return None
    public = {name: value for name, value in given.items() if name != "d"}  # what is private is of no use here
    try:
        value = PyJWK({**public, "alg": None}).key
    except (PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(value, bytes):
        algorithm = "HS256" if has_secrets and len(value) >= SECRET_BYTES_MIN else None
    else:
        algorithm = _algorithm_of(value)
    # `Ed25519` is the newer name of what most issuers call EdDSA (RFC 9864).
    said = "EdDSA" if given.get("alg") == "Ed25519" else given.get("alg", algorithm)
    return Key(algorithm, value, id) if algorithm is not None and said == algorithm else None


def _algorithm_of(value: Any) -> str | None:
    if isinstance(value, RSAPublicKey):
        return "RS256" if value.key_size >= RSA_BITS_MIN else None
    if isinstance(value, EllipticCurvePublicKey):
        return "ES256" if isinstance(value.curve, SECP256R1) else None
    return "EdDSA" if isinstance(value, Ed25519PublicKey) else None
