"""How often clients may try tokens: an address that has sent too many wrong ones is refused before anybody is asked.

Our own, as what there is counts requests, right ones too, or keeps all addresses for as long as somebody makes up more.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from collections import OrderedDict

from tidelog.errors import TooManyAttemptsError
from tidelog.logs.seldom import Seldom
from tidelog.web.addresses import counted_as
from tidelog.web.allowance import Allowance

ADDRESSES_KEPT = 10_000  # that have sent wrong tokens, the last ones: about 2 MB
RIGHT_KEPT = 10_000  # digests of tokens that were right, of the last ones: about 2 MB
NO_ADDRESS = ""  # of all who come by a Unix socket, and no proxy that is trusted

logger = logging.getLogger("tidelog.limits")


class Attempts:
    """Remembers wrong tokens by address; and right ones, so that who has one isn't shut out by a neighbour."""

    def __init__(self, per_minute: int) -> None:
        """So many at once, and by and by as many in each minute."""
        self._per_minute = per_minute
        self._of_address: OrderedDict[str, Allowance] = OrderedDict()
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._key = secrets.token_bytes(16)
        self._seldom = Seldom()

    def check(self, address: str | None, token: str) -> None:
        """Raise TooManyAttemptsError if this address may not try another token now."""
        allowance = self._of_address.get(_counted(address))
        if allowance is None or allowance.left >= 1:
            return
        allowance.may_go_on()
        if allowance.left >= 1 or self._digest(address, token) in self._right:
            return
        if self._seldom.is_news():
            logger.warning(
                "refusing tokens: the address %s has sent %d wrong ones, or more; if it is a proxy, name it in "
                "TIDELOG_TRUSTED_PROXIES (told once a minute; the bound, of each process, is "
                "TIDELOG_WRONG_TOKENS_PER_MINUTE_MAX)",
                _counted(address),
                self._per_minute,
            )
        raise TooManyAttemptsError(self._per_minute, math.ceil((1 - allowance.left) / allowance.per_second))

    def note_wrong(self, address: str | None, token: str) -> None:
        """The token was refused."""
        self._right.pop(self._digest(address, token), None)
        key = _counted(address)
        allowance = self._of_address.get(key)
        if allowance is None:
            allowance = self._of_address[key] = Allowance(self._per_minute, self._per_minute / 60)
            if len(self._of_address) > ADDRESSES_KEPT:
                self._of_address.popitem(last=False)
        self._of_address.move_to_end(key)
        allowance.may_go_on()
        # Of those that were tried at once, as many count as keep it out for a minute: not for ever.
        allowance.left = max(allowance.left - 1, -self._per_minute)

    def note_right(self, address: str | None, token: str) -> None:
        """The token was somebody's."""
        digest = self._digest(address, token)
        self._right[digest] = None
        self._right.move_to_end(digest)
        if len(self._right) > RIGHT_KEPT:
            self._right.popitem(last=False)

    def _digest(self, address: str | None, token: str) -> bytes:
        said = f"{_counted(address)} {token}".encode(errors="surrogatepass")
        return hashlib.blake2b(said, key=self._key, digest_size=16).digest()


def _counted(address: str | None) -> str:
    return NO_ADDRESS if address is None else counted_as(address)
