"""JSON Web Tokens, by settings alone: what a token must be to be believed (RFC 7519, RFC 8725)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jwt
from jwt.exceptions import ExpiredSignatureError, PyJWTError

from tidelog.access.authentication import TOKEN, Request
from tidelog.access.caller import Caller
from tidelog.access.causes import Causes
from tidelog.access.key_set import set_of_file, set_of_url
from tidelog.access.keys import Key, OneKey, key_of_pem, key_of_secret
from tidelog.errors import TokenExpiredError, TokenSettingsError, UnauthorizedError
from tidelog.settings import Settings

# `typ` of tokens that say who asks; others have claims like these, and mean something else (RFC 8725 3.11).
TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})

_REFUSED = "the token is not accepted"


class Keys(Protocol):
    """Where keys are found."""

    async def find(self, algorithm: object, id: object) -> Key | None:
        """The key for what a token says of itself; None if there is none."""
        ...


class Tokens:
    """Believes tokens that one of the keys signed, and that are meant for this server, now."""

    def __init__(
        self,
        keys: Keys,
        causes: Causes,
        *,
        audience: Sequence[str] | None = None,
        issuer: Sequence[str] | None = None,
        leeway_seconds: float = 0,
        required: Sequence[str] = ("exp",),
    ) -> None:
        self._keys = keys
        self._causes = causes
        self._audience = audience or None
        self._issuer = issuer or None
        self._leeway_seconds = leeway_seconds
        self._required = list(required)

    async def authenticate(self, request: Request) -> Caller | None:
        """The claims, with the `sub` as `subject`; None without a token. Raises UnauthorizedError."""
        token: str | None = request[TOKEN]
        if token is None:
            return None
        try:
            header = jwt.get_unverified_header(token)
        except (PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise self._refusal(error) from None
        type = header.get("typ", "JWT")
        if not isinstance(type, str) or type.lower() not in TYPES:
            raise self._refusal(ValueError("it is of another type"))
        key = await self._keys.find(header.get("alg"), header.get("kid"))
        if key is None:
            raise self._refusal(LookupError("no key of ours has its algorithm and its id"))
        try:
            return self._caller_of(self._claims(token, key))
        except (PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise self._refusal(error) from None

    def _claims(self, token: str, key: Key) -> dict[str, Any]:
        return jwt.decode(
            token,
            key.value,
            algorithms=[key.algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway_seconds,
            options={"require": self._required},
        )

    def _caller_of(self, claims: dict[str, Any]) -> Caller:
        auth = {**claims, "subject": claims.get("sub")}
        expires_at = int(claims["exp"]) + self._leeway_seconds if "exp" in claims else None
        return Caller(auth, Caller.of({"expires_at": expires_at}).expires_at)

    def _refusal(self, error: Exception) -> UnauthorizedError:
        """What the client is told: not why, but for what it can mend. The log has each reason, now and then."""
        if isinstance(error, ExpiredSignatureError):
            return TokenExpiredError("the token has expired")
        # Never the error's own text: it may have a part of the token.
        named = f" ({error})" if isinstance(error, LookupError) else ""
        self._causes.warn(
            ("token", type(error)), "refused by its token, %s%s (told once for this cause)", type(error).__name__, named
        )
        return UnauthorizedError(_REFUSED)


def tokens_of(settings: Settings, causes: Causes) -> Tokens | None:
    """By the settings; None if these don't speak of tokens. Raises TokenSettingsError."""
    given = {
        "TIDELOG_JWT_SECRET": settings.jwt_secret,
        "TIDELOG_JWT_KEY_FILE": settings.jwt_key_file,
        "TIDELOG_JWT_JWKS": settings.jwt_jwks,
    }
    if () in (settings.jwt_audience, settings.jwt_issuer):
        raise TokenSettingsError("TIDELOG_JWT_AUDIENCE or TIDELOG_JWT_ISSUER is empty: name one, or unset it")
    names = [name for name, value in given.items() if value is not None]
    if not names:
        if settings.jwt_audience or settings.jwt_issuer:
            raise TokenSettingsError(f"there is no key for tokens: set one of {', '.join(given)}")
        return None
    if len(names) > 1:
        raise TokenSettingsError(f"{' and '.join(names)} are set: tokens are verified by one of them")
    return Tokens(
        _keys_of(settings, causes),
        causes,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        leeway_seconds=settings.jwt_leeway_seconds,
        required=settings.jwt_required_claims or (),
    )


def _keys_of(settings: Settings, causes: Causes) -> Keys:
    if settings.jwt_secret is not None:
        return OneKey(key_of_secret(settings.jwt_secret.get_secret_value()))
    if settings.jwt_key_file is not None:
        where = f"TIDELOG_JWT_KEY_FILE: {settings.jwt_key_file}"
        try:
            return OneKey(key_of_pem(settings.jwt_key_file.read_text(), where))
        except (OSError, UnicodeDecodeError) as error:
            raise TokenSettingsError(f"{where} can't be read: {error}") from None
    assert settings.jwt_jwks is not None  # noqa: S101 - one of the three
    if "://" in settings.jwt_jwks:
        return set_of_url(settings.jwt_jwks, causes)
    return set_of_file(Path(settings.jwt_jwks), causes)
