"""Which JSON Web Tokens are believed, and which are not."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.tokens import (
    EC_KEY,
    ED_KEY,
    OTHER_RSA_KEY,
    OTHER_SECRET,
    PRIVATE_KEYS,
    RSA_KEY,
    SECRET,
    claims,
    forged,
    jwk,
    key_set,
    numbered,
    pem,
    private_pem,
    segment,
    token,
)
from tidelog.access.caller import Caller
from tidelog.access.causes import Causes
from tidelog.access.key_set import KeySet, set_of_url
from tidelog.access.keys import Key, OneKey, key_of_pem, key_of_secret, keys_of_set
from tidelog.access.tokens import Tokens, tokens_of
from tidelog.errors import TokenSettingsError, UnauthorizedError
from tidelog.logs.redaction import Redaction
from tidelog.settings import Settings


def by_secret(**options: Any) -> Tokens:
    return Tokens(OneKey(key_of_secret(SECRET)), Causes(), **options)


def by_pem(key: Any) -> Tokens:
    return Tokens(OneKey(key_of_pem(pem(key), "the key")), Causes())


def by_set(*keys: dict[str, Any], has_secrets: bool = False) -> Tokens:
    async def load() -> Any:
        return keys_of_set(key_set(*keys), has_secrets=has_secrets)

    return Tokens(KeySet(load, Causes()), Causes())


async def caller_of(tokens: Tokens, given: str | None) -> Caller | None:
    return await tokens.authenticate({"token": given})


async def refusal(tokens: Tokens, given: str) -> str:
    with pytest.raises(UnauthorizedError) as refused:
        await caller_of(tokens, given)
    return str(refused.value)


async def test_a_token_that_is_right_names_its_subject() -> None:
    """All of its claims are there, and until when it holds."""
    caller = await caller_of(by_secret(), token(role="editor"))
    assert caller is not None
    assert (caller.subject, caller.auth["role"]) == ("ada", "editor")
    assert caller.expires_at == caller.auth["exp"]


async def test_no_token_is_nobody() -> None:
    """Not a refusal: what is for everybody, stays so."""
    assert await caller_of(by_secret(), None) is None


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
async def test_each_algorithm_is_verified_by_its_kind_of_key(algorithm: str) -> None:
    """By a PEM file, and by a set."""
    key = PRIVATE_KEYS[algorithm]
    for tokens in (by_pem(key), by_set(jwk(key, "k1"))):
        caller = await caller_of(tokens, token(key, algorithm, {"kid": "k1"}))
        assert caller is not None and caller.subject == "ada"


async def test_the_subject_is_the_issuers_and_no_claim_of_that_name() -> None:
    """A claim `subject` that users may set says nothing."""
    caller = await caller_of(by_secret(), token(subject="root"))
    assert caller is not None and caller.subject == "ada"
    caller = await caller_of(by_secret(), token(sub=None, subject="root"))
    assert caller is not None and caller.subject is None


HS_OF_PUBLIC_KEY = [
    hmac.new(key.encode(), f"{segment({'alg': 'HS256', 'typ': 'JWT'})}.{segment(claims())}".encode(), hashlib.sha256)
    for key in (pem(RSA_KEY), pem(RSA_KEY).strip(), pem(RSA_KEY).replace("\n", ""))
]


@pytest.mark.parametrize("number", range(len(HS_OF_PUBLIC_KEY)))
async def test_a_public_key_is_no_secret(number: int) -> None:
    """Algorithm confusion: signed by HMAC with the public key that everybody has."""
    given = (
        f"{segment({'alg': 'HS256', 'typ': 'JWT'})}.{segment(claims())}.{segment(HS_OF_PUBLIC_KEY[number].digest())}"
    )
    for tokens in (by_pem(RSA_KEY), by_set(jwk(RSA_KEY, "k1")), by_set(jwk(RSA_KEY))):
        await refusal(tokens, given)


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", None, 0, [], ["HS256"], {"a": 1}, "HS256 ", "hs256"]
)
async def test_an_algorithm_that_is_none_of_ours_is_refused(alg: Any) -> None:
    """With an empty signature, and with a right one."""
    header = {"alg": alg, "typ": "JWT"}
    signature = hmac.new(SECRET.encode(), f"{segment(header)}.{segment(claims())}".encode(), hashlib.sha256).digest()
    for tokens in (by_secret(), by_pem(RSA_KEY), by_set(jwk(RSA_KEY, "k1"))):
        await refusal(tokens, forged(header))
        await refusal(tokens, forged(header, None, signature))
    await refusal(by_secret(), forged({"typ": "JWT"}))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_another_algorithm_of_the_same_key_is_refused(algorithm: str) -> None:
    """Each key has one."""
    await refusal(by_secret(), token("x" * 64, algorithm))
    await refusal(by_secret(), jwt.encode(claims(), SECRET * 2, algorithm=algorithm))


@pytest.mark.parametrize("algorithm", ["RS384", "PS256"])
async def test_another_algorithm_of_an_rsa_key_is_refused(algorithm: str) -> None:
    """Though the signature is right."""
    await refusal(by_pem(RSA_KEY), token(RSA_KEY, algorithm))


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/dev/null",
        "' union select 'key' --",
        "https://evil.example/jwks.json",
        "k1\0",
        "K1",
        " k1",
        "",
        "k" * 4000,
    ],
)
async def test_an_unknown_key_id_finds_no_key(kid: str) -> None:
    """It is compared, and nothing else is done with it."""
    await refusal(by_set(jwk(RSA_KEY, "k1"), jwk(EC_KEY, "k2")), token(RSA_KEY, "RS256", {"kid": kid}))


@pytest.mark.parametrize("kid", [1, None, [], {"a": 1}, True])
async def test_a_key_id_that_is_no_text_is_refused(kid: Any) -> None:
    """And never an error of ours."""
    header = {"alg": "RS256", "kid": kid}
    await refusal(by_set(jwk(RSA_KEY, "k1")), forged(header))


async def test_a_key_id_does_not_choose_another_kind_of_key() -> None:
    """The id of the EC key, with a signature of the RSA key; and an id that two keys have."""
    tokens = by_set(jwk(RSA_KEY, "k1"), jwk(EC_KEY, "k2"))
    await refusal(tokens, token(RSA_KEY, "RS256", {"kid": "k2"}))
    await refusal(tokens, token(EC_KEY, "ES256", {"kid": "k1"}))
    twice = by_set(jwk(RSA_KEY, "k1"), jwk(OTHER_RSA_KEY, "k1"))
    await refusal(twice, token(RSA_KEY, "RS256", {"kid": "k1"}))


async def test_without_a_key_id_only_a_single_key_can_be_meant() -> None:
    """Nothing is tried."""
    assert await caller_of(by_set(jwk(RSA_KEY, "k1"), jwk(EC_KEY, "k2")), token(RSA_KEY, "RS256"))
    await refusal(by_set(jwk(RSA_KEY, "k1"), jwk(OTHER_RSA_KEY, "k2")), token(RSA_KEY, "RS256"))


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c", "x5t"])
async def test_a_key_that_comes_with_the_token_is_not_used(name: str) -> None:
    """Neither it nor where it is said to be."""
    own = {"jwk": jwk(OTHER_RSA_KEY), "x5c": [pem(OTHER_RSA_KEY)]}.get(name, "https://evil.example/keys")
    await refusal(by_set(jwk(RSA_KEY, "k1")), token(OTHER_RSA_KEY, "RS256", {"kid": "k1", name: own}))
    await refusal(by_pem(RSA_KEY), token(OTHER_RSA_KEY, "RS256", {name: own}))


@pytest.mark.parametrize(
    "header",
    [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": "b64"}, {"b64": False, "crit": ["b64"]}, {"b64": False}],
)
async def test_a_critical_header_that_is_not_understood_is_refused(header: dict[str, Any]) -> None:
    """RFC 7515 4.1.11."""
    whole = {"alg": "HS256", "typ": "JWT", **header}
    signed = f"{segment(whole)}.{segment(claims())}"
    signature = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    await refusal(by_secret(), f"{signed}.{segment(signature)}")


@pytest.mark.parametrize("typ", ["JWE", "secevent+jwt", "dpop+jwt", "logout+jwt", "", 1, None, ["JWT"]])
async def test_a_token_of_another_type_is_refused(typ: Any) -> None:
    """What an issuer signs for other purposes says nothing of who asks (RFC 8725 3.11)."""
    header = {"alg": "HS256", "typ": typ}
    signed = f"{segment(header)}.{segment(claims())}"
    signature = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    await refusal(by_secret(), f"{signed}.{segment(signature)}")


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_the_types_of_access_tokens_are_taken(typ: str) -> None:
    """In any case (RFC 9068 2.1)."""
    assert await caller_of(by_secret(), token(headers={"typ": typ}))


# These times are of when the tests are collected, which may be many minutes before they run.
@pytest.mark.parametrize(
    "parts",
    [
        {"exp": int(time.time()) - 60},
        {"exp": None},
        {"exp": "never"},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": [1]},
        {"exp": {}},
        {"nbf": int(time.time()) + 86_400},
        {"iat": int(time.time()) + 86_400},
        {"nbf": "now"},
        {"sub": 5},
        {"sub": ["ada"]},
        {"aud": "somebody else's"},
        {"aud": ["somebody else's"]},
        {"jti": 5},
    ],
)
async def test_a_token_whose_claims_do_not_hold_is_refused(parts: dict[str, Any]) -> None:
    """Though its signature is right."""
    body = {"sub": "ada", "exp": int(time.time()) + 3600, **parts}
    body = {name: value for name, value in body.items() if value is not None}
    signed = f"{segment({'alg': 'HS256', 'typ': 'JWT'})}.{segment(body)}"
    signature = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    await refusal(by_secret(), f"{signed}.{segment(signature)}")


async def test_a_token_for_this_audience_and_of_this_issuer_is_taken() -> None:
    """And no other."""
    tokens = by_secret(audience=("tidelog", "streams"), issuer=("https://id.example",))
    good = {"aud": ["streams", "mail"], "iss": "https://id.example"}
    assert await caller_of(tokens, token(**good))
    for parts in ({"aud": "mail"}, {"aud": None}, {"iss": "https://id.example.evil"}, {"iss": None}):
        await refusal(tokens, token(**{**good, **parts}))


async def test_claims_that_are_required_must_be_there() -> None:
    """By default the end; all that are named."""
    await refusal(by_secret(required=("exp", "tenant")), token())
    assert await caller_of(by_secret(required=("exp", "tenant")), token(tenant="t1"))
    forever = await caller_of(by_secret(required=()), token(exp=None))
    assert forever is not None and forever.expires_at is None


async def test_clocks_may_differ_by_the_leeway() -> None:
    """The connection lasts for as long as the token is taken."""
    late = int(time.time()) - 20
    assert "expired" in await refusal(by_secret(leeway_seconds=5), token(exp=late))
    caller = await caller_of(by_secret(leeway_seconds=60), token(exp=late))
    assert caller is not None and caller.expires_at == late + 60


@pytest.mark.parametrize(
    "given",
    numbered(
        [
            "",
            "a",
            "..",
            "a.b.c",
            "é.é.é",
            token() + "x",
            token() + ".x",
            token()[:-2],
            token(OTHER_SECRET),
            "." + token(),
            token().replace(".", ".."),
            forged([1]),
            forged("HS256"),
            forged({"alg": "HS256"}, [1]),
            "a.b.c.d.e",
            f"{segment(b'[' * 3000)}.{segment(claims())}.x",
        ]
    ),
)
async def test_what_is_no_token_is_refused_and_said_nowhere(given: str, caplog: pytest.LogCaptureFixture) -> None:
    """In no answer and in no log."""
    with caplog.at_level(logging.DEBUG):
        said = await refusal(by_secret(), given)
    if len(given) > 5:
        assert given not in said + caplog.text


async def test_the_log_says_why_a_token_was_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Also behind what takes secrets out of it: the reason stands where a token might."""
    await refusal(by_secret(), token(OTHER_SECRET))
    assert "InvalidSignatureError" in Redaction().text(caplog.text)


@given(st.text(max_size=200) | st.builds(lambda *p: ".".join(map(segment, p)), st.binary(), st.binary(), st.binary()))
async def test_whatever_is_sent_is_refused_and_no_error(given: str) -> None:
    """An error would be a 503, and in the log."""
    await refusal(by_secret(), given)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["alg", "typ", "kid", "crit", "b64", "sub", "exp", "nbf", "iat", "aud", "iss", "jti"])


@given(st.dictionaries(NAMES, JSON), st.dictionaries(NAMES, JSON))
async def test_whatever_is_signed_is_taken_or_refused_and_no_error(header: Any, payload: Any) -> None:
    """Issuers have faults, too."""
    signed = f"{segment({'alg': 'HS256', **header})}.{segment(payload)}"
    signature = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    try:
        caller = await caller_of(by_secret(), f"{signed}.{segment(signature)}")
    except UnauthorizedError:
        return
    assert caller is not None and caller.expires_at is not None


@pytest.mark.parametrize("secret", numbered(["", "sesame", "x" * 31, pem(RSA_KEY), private_pem(RSA_KEY)]))
def test_a_secret_that_can_be_guessed_or_is_none_is_refused(secret: str) -> None:
    """At the start, and without telling it."""
    with pytest.raises(TokenSettingsError) as refused:
        tokens_of(Settings(jwt_secret=secret), Causes())  # type: ignore[arg-type]
    assert not secret or secret not in str(refused.value)


WEAK = [
    rsa.generate_private_key(65537, 1024),  # noqa: S505 - what is to be refused
    ec.generate_private_key(ec.SECP384R1()),
    ed448.Ed448PrivateKey.generate(),
]


@pytest.mark.parametrize(
    "text",
    numbered([private_pem(RSA_KEY), "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----", "", *map(pem, WEAK)]),
)
def test_a_key_that_is_private_weak_or_none_is_refused(text: str, tmp_path: Path) -> None:
    """At the start, with what to do."""
    file = tmp_path / "key.pem"
    file.write_text(text)
    with pytest.raises(TokenSettingsError, match="TIDELOG_JWT_KEY_FILE"):
        tokens_of(Settings(jwt_key_file=file), Causes())
    with pytest.raises(TokenSettingsError, match="can't be read"):
        tokens_of(Settings(jwt_key_file=tmp_path / "nothing"), Causes())


@pytest.mark.parametrize(
    "url", ["http://id.example/keys", "ftp://id.example/keys", "file:///etc/passwd", "https://", "gopher://127.0.0.1/"]
)
def test_keys_come_only_over_a_connection_that_can_be_trusted(url: str) -> None:
    """Who can change what comes from there can be anybody."""
    with pytest.raises(TokenSettingsError, match="https"):
        set_of_url(url, Causes())


def test_settings_that_contradict_each_other_stop_the_start() -> None:
    """Two sources of keys; an audience without a key; an empty issuer, which would be any."""
    for settings in (
        Settings(jwt_secret=SECRET, jwt_jwks="https://id.example/keys"),  # type: ignore[arg-type]
        Settings(jwt_audience=("tidelog",)),
        Settings(jwt_secret=SECRET, jwt_issuer=()),  # type: ignore[arg-type]
    ):
        with pytest.raises(TokenSettingsError):
            tokens_of(settings, Causes())
    assert tokens_of(Settings(), Causes()) is None


def test_of_a_set_only_what_verifies_signatures_is_used() -> None:
    """Nothing for encryption, nothing weak, no algorithm that isn't ours, and no secret from a public place."""
    secret = {"kty": "oct", "k": segment(SECRET.encode()), "kid": "s"}
    text = key_set(
        jwk(RSA_KEY, "r"),
        jwk(RSA_KEY, "enc", use="enc"),
        jwk(RSA_KEY, "ops", key_ops=["encrypt"]),
        jwk(RSA_KEY, "alg", alg="RS512"),
        jwk(RSA_KEY, "ed", alg="EdDSA"),
        jwk(ED_KEY, "e", alg="Ed25519"),
        jwk(WEAK[0], "weak"),
        jwk(WEAK[1], "p384"),
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "unheard", "kid": "u"},
        secret,
    )
    assert [key.id for key in keys_of_set(text, has_secrets=False)] == ["r", "e"]
    assert [key.id for key in keys_of_set(text, has_secrets=True)] == ["r", "e", "s"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": {}}', '{"keys": null}', "null", "[" * 5000])
def test_what_is_no_set_of_keys_is_an_error(text: str) -> None:
    """And doesn't count as an empty one."""
    with pytest.raises((ValueError, RecursionError)):
        keys_of_set(text, has_secrets=True)


class Issuer:
    """Who has keys, may be away, and counts how often it is asked; and a clock."""

    def __init__(self) -> None:
        self.keys = [jwk(RSA_KEY, "k1")]
        self.is_away = False
        self.asked = 0
        self.now = 1000.0
        self.tokens = Tokens(KeySet(self.load, Causes(), clock=lambda: self.now), Causes())

    async def load(self) -> Any:
        self.asked += 1
        if self.is_away:
            raise OSError("away")
        return keys_of_set(json.dumps({"keys": self.keys}), has_secrets=False)

    async def takes(self, key: Any, kid: str) -> bool:
        try:
            return await caller_of(self.tokens, token(key, "RS256", {"kid": kid})) is not None
        except UnauthorizedError:
            return False


async def test_a_new_key_is_taken_as_soon_as_a_token_names_it() -> None:
    """Rotation: without a restart, and the old one goes when the issuer takes it back."""
    issuer = Issuer()
    assert await issuer.takes(RSA_KEY, "k1")
    issuer.now += 60
    issuer.keys = [jwk(OTHER_RSA_KEY, "k2")]
    assert await issuer.takes(OTHER_RSA_KEY, "k2")
    assert not await issuer.takes(RSA_KEY, "k1")


async def test_tokens_that_name_unknown_keys_do_not_flood_the_issuer() -> None:
    """A thousand of them are one request."""
    issuer = Issuer()
    assert await issuer.takes(RSA_KEY, "k1")
    issuer.now += 60
    for number in range(1000):
        assert not await issuer.takes(OTHER_RSA_KEY, f"made up {number}")
    assert issuer.asked == 2
    assert await issuer.takes(RSA_KEY, "k1")


async def test_an_issuer_that_is_away_is_believed_for_a_day() -> None:
    """Then nobody can be known: an error, which answers 503, and not a refusal."""
    issuer = Issuer()
    assert await issuer.takes(RSA_KEY, "k1")
    issuer.is_away = True
    issuer.now += 3600
    assert await issuer.takes(RSA_KEY, "k1")
    issuer.now += 24 * 3600
    with pytest.raises(OSError, match="away"):
        await issuer.takes(RSA_KEY, "k1")
    issuer.is_away = False
    issuer.now += 60
    assert await issuer.takes(RSA_KEY, "k1")


def test_a_key_shows_nothing_of_itself() -> None:
    """Where it is printed by mistake."""
    assert SECRET not in repr(Key("HS256", SECRET.encode()))
    assert SECRET not in repr(Settings(jwt_secret=SECRET))  # type: ignore[arg-type]
