"""All that decides about who comes in, whichever way: made once, and asked by sockets and steps alike."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.types import Scope

from tidelog.access.authentication import Authentication, by_function
from tidelog.access.authors import AuthorFunctions
from tidelog.access.causes import Causes
from tidelog.access.decisions import Access, Mode
from tidelog.access.tokens import tokens_of
from tidelog.errors import DeclarationError
from tidelog.runtime.discovery import Discovered
from tidelog.runtime.threads import HandlerThreads
from tidelog.settings import Settings
from tidelog.web.addresses import Addresses
from tidelog.web.attempts import Attempts
from tidelog.web.callers import Callers
from tidelog.web.exposure import Exposure
from tidelog.web.page_rules import PageRules

# What an author's `authenticate` may raise, beside UnauthorizedError, to refuse a request.
REFUSALS = (PermissionError, NotAuthorizedException, PermissionDeniedException)


@dataclass(frozen=True, slots=True)
class Admission:
    """Who asks, and what they may have."""

    callers: Callers
    access: Access
    exposure: Exposure | None = None  # None: all that has no rule is open

    @classmethod
    def of(
        cls, settings: Settings, declared: Discovered, authors: AuthorFunctions, rules: AuthorFunctions
    ) -> Admission:
        """By what is declared and set: `authors` runs who authenticates, `rules` the streams' rules.

        Raises TokenSettingsError, and DeclarationError for two authentications.
        """
        causes = Causes()
        tokens = tokens_of(settings, causes)
        authentication: Authentication | None = None
        if declared.authenticate is not None:
            if tokens is not None:
                raise DeclarationError("TIDELOG_JWT_... is set, and there is an `authenticate`: leave one out")
            authentication = Authentication(by_function(declared.authenticate, authors), causes, REFUSALS)
        elif tokens is not None:
            authentication = Authentication(authors.limited(tokens.authenticate, "the tokens' keys"), causes)
        exposure = Exposure(settings, has_authentication=authentication is not None)
        attempts = Attempts(settings.wrong_tokens_per_minute_max)
        callers = Callers(authentication, Addresses(settings), PageRules(settings).check_ambient, attempts)
        return cls(callers, Access(declared.streams, rules, causes), exposure)

    @classmethod
    def of_all(cls, streams: Collection[str]) -> Admission:
        """Everybody may have these streams."""
        return cls(Callers(), Access(streams, AuthorFunctions(HandlerThreads(), 1), Causes()))

    def mode_of(self, scope: Scope) -> Mode:
        """Who may have a stream without a rule, of those who come so."""
        return "open" if self.exposure is None else self.exposure.mode_of(scope)
