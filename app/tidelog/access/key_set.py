"""A set of keys that changes while it is used: kept, read anew when it is old, or when a token names a new key."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Never
from urllib.parse import urlsplit

from tidelog.access.causes import Causes
from tidelog.access.keys import Key, keys_of_set, only_fitting
from tidelog.errors import TokenSettingsError

FRESH_SECONDS = 300.0  # then it is read again, beside what is asked: a key that is withdrawn is accepted for so long
FRESH_FILE_SECONDS = 10.0
# Between two readings. Anybody can send tokens that name new keys, and each must not be a request to the issuer.
PAUSE_SECONDS = 30.0
PAUSE_FILE_SECONDS = 1.0
STALE_MAX_SECONDS = 24 * 3600.0  # for which an issuer may be away, and its keys be believed
FETCH_SECONDS = 4.0  # less than authenticating may take
SET_BYTES_MAX = 1024 * 1024

Load = Callable[[], Awaitable[Sequence[Key]]]
Clock = Callable[[], float]

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class KeySet:
    """Finds keys by what tokens say of them."""

    def __init__(
        self,
        load: Load,
        causes: Causes,
        *,
        fresh_seconds: float = FRESH_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
        clock: Clock = time.monotonic,
    ) -> None:
        self._load = load
        self._causes = causes
        self._fresh_seconds = fresh_seconds
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._keys: Sequence[Key] | None = None
        self._loaded_at = self._tried_at = float("-inf")
        self._loading: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    async def find(self, algorithm: object, id: object) -> Key | None:
        """The key; None if there is none. Raises what loading raises while there are no keys that may be believed."""
        now = self._clock()
        if self._keys is not None and now - self._loaded_at > STALE_MAX_SECONDS:
            self._keys = None
        if self._keys is None:
            await self._reload()
        elif now - self._loaded_at > self._fresh_seconds:
            self._begin_to_load()
        found = self._find(algorithm, id)
        if found is None and self._begin_to_load():
            await self._reload()
            found = self._find(algorithm, id)
        return found

    def _find(self, algorithm: object, id: object) -> Key | None:
        if self._keys is None:
            raise self._failure or RuntimeError("there are no keys yet")
        return only_fitting(self._keys, algorithm, id)

    async def _reload(self) -> None:
        """Wait for the reading that is under way. One for all; who stops waiting doesn't stop it."""
        if self._begin_to_load() and self._loading is not None:
            await asyncio.shield(self._loading)

    def _begin_to_load(self) -> bool:
        """Whether it is being read, from now on or already."""
        if self._loading is not None and (
            self._loading.done() or self._loading.get_loop() is not asyncio.get_running_loop()
        ):
            self._loading = None
        if self._loading is None and self._clock() - self._tried_at >= self._pause_seconds:
            self._tried_at = self._clock()
            self._loading = asyncio.create_task(self._read())
        return self._loading is not None

    async def _read(self) -> None:
        try:
            self._keys = await self._load()
            self._loaded_at, self._failure = self._clock(), None
        except Exception as error:
            self._failure = error
            self._causes.warn(
                ("keys", type(error)), "the keys of tokens can't be read: %s: %s", type(error).__name__, error
            )


def set_of_file(path: Path, causes: Causes) -> KeySet:
    """Of a file, which is read at once. Raises TokenSettingsError."""

    def read() -> Sequence[Key]:
        return keys_of_set(path.read_bytes(), has_secrets=True)

    async def load() -> Sequence[Key]:
        return await asyncio.to_thread(read)

    try:
        if not read():
            raise ValueError("none of its keys can be used for RS256, ES256, EdDSA or HS256")
    except (OSError, ValueError) as error:
        raise TokenSettingsError(f"TIDELOG_JWT_JWKS: {path} can't be used: {error}") from None
    return KeySet(load, causes, fresh_seconds=FRESH_FILE_SECONDS, pause_seconds=PAUSE_FILE_SECONDS)


def set_of_url(url: str, causes: Causes) -> KeySet:
    """Of an issuer, who is asked when the first token comes. Raises TokenSettingsError."""
    parts = urlsplit(url)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if not is_safe or not parts.hostname:
        raise TokenSettingsError(
            "TIDELOG_JWT_JWKS must be a file, or a URL with https: who can change keys can be anybody"
        )

    async def load() -> Sequence[Key]:
        return keys_of_set(await asyncio.to_thread(_fetch, url), has_secrets=False)

    return KeySet(load, causes)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The URL that was set is the one that is believed."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(_NoRedirects)
    request = urllib.request.Request(url, headers={"accept": "application/json"})  # noqa: S310 - checked in set_of_url
    deadline = time.monotonic() + FETCH_SECONDS
    with opener.open(request, timeout=FETCH_SECONDS) as answer:
        found = b""
        while piece := answer.read1(65_536):
            found += piece
            if len(found) > SET_BYTES_MAX:
                _refuse(f"the key set is larger than {SET_BYTES_MAX} bytes")
            if time.monotonic() > deadline:
                _refuse(f"the key set took longer than {FETCH_SECONDS:g} s")
    return found


def _refuse(why: str) -> Never:
    raise ValueError(why)
