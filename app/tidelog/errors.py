"""Every error that Tidelog raises on purpose: a stable code and a message that says what to do."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One place where a JSON value does not fit its schema."""

    path: str  # JSON Pointer (RFC 6901) into the value; "" is the value itself
    message: str


def shown(value: object) -> str:
    """The beginning of a value, for a message: also of one that has no repr, as it is too deep or too large."""
    try:
        return f"{value!r:.80}"
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} that can't be shown"


FORGOTTEN_AWAIT = "is an `await` missing before it?"
_NOT_AWAITED = ("tidelog.runtime.calls.Call", "'coroutine'")  # in what others say of a value that they can't take


def await_hint(message: str) -> str:
    """What is said behind `message` if it is about a call that was not awaited; else nothing."""
    return f": {FORGOTTEN_AWAIT}" if any(name in message for name in _NOT_AWAITED) else ""


class TidelogError(Exception):
    """Something that Tidelog refused. `code` never changes between releases; the message may."""

    code = "tidelog_error"
    status = 500  # the HTTP status, where the error is the caller's to see


class DeclarationError(TidelogError):
    """A *_stream.py or *_step.py file that can't be used; the message names the file and the cause."""

    code = "declaration_invalid"
    line: int | None = None  # where, if the message says so itself
    about = "config"  # the name at the file's top level that it is about


class HandlerDeclarationError(DeclarationError):
    """A file's handler can't be one."""

    about = "handler"


class StreamsNotMigratedError(TidelogError):
    """A declared stream has no table, or the core tables are missing or older than the code."""

    code = "streams_not_migrated"


class StreamsNewerError(TidelogError):
    """The core tables were migrated by a later release than this one."""

    code = "streams_newer"


class GrantMissingError(TidelogError):
    """The database's role lacks a right that serving takes; the message has the statement that grants it."""

    code = "grant_missing"


class MigrationFailedError(TidelogError):
    """Postgres refused a migration for what passes, or for somebody to end or mend; nothing was changed."""

    code = "migration_failed"


class ServerUnfitError(TidelogError):
    """The server is no Postgres that Tidelog can serve: too old, or without the functions that it needs."""

    code = "server_unfit"


class StreamTableError(TidelogError):
    """A declared stream's table is not as it should be, and somebody has to decide; the message has the statements."""

    code = "stream_table_unfit"


class DatabaseUrlError(TidelogError):
    """A database URL that can't be understood, or asks for what the driver can't do. No password is in the message."""

    code = "database_url_invalid"


class DatabaseUnreachableError(TidelogError):
    """No connection at the start: the message says what is wrong with server, name, password or TLS, and what to do."""

    code = "database_unreachable"


class EncodingError(TidelogError):
    """The database, or our session with it, has another encoding than UTF8: it can't hold or tell every text."""

    code = "encoding_unsupported"


class KeyInvalidError(TidelogError):
    """A group id or an item id that can't be a key: empty, too long, or with a NUL character.

    Of a step it is the client's (400) if the key is in its request as it is, else the step's own (500).
    """

    code = "key_invalid"

    def __init__(self, message: str, key: object = None) -> None:
        super().__init__(message)
        self.key = key


class ItemInvalidError(TidelogError):
    """An item or event that isn't JSON, doesn't fit its stream's schema, or is over the size limit.

    Of a step it is the client's (400) if what is wrong is in its request as it is, else the step's own (500).
    """

    code = "item_invalid"

    def __init__(self, message: str, violations: Sequence[Violation] = (), culprits: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)
        self.culprits = tuple(culprits)  # the values that are wrong; none if it is not known which


class OperationInvalidError(ItemInvalidError):
    """What an operation on items was given makes no sense: an update's operations, a page, a condition."""

    code = "operation_invalid"


class ItemConflictError(TidelogError):
    """An item is not as the caller said that it was: of another version, there already, or not there.

    A step that lets it through answers 409, and nothing of the step is stored.
    """

    code = "item_conflict"
    status = 409


class StreamUnknownError(TidelogError, AttributeError, KeyError):
    """No stream of this name is declared. It is what Python expects where `hasattr` or a mapping's `get` asks."""

    code = "stream_unknown"
    __str__ = Exception.__str__  # a KeyError's is quoted


class StreamUnreadableError(TidelogError):
    """A stream's table is gone, was altered, or may not be read: so it is until somebody acts."""

    code = "stream_unreadable"


class SubscriptionUnavailableError(TidelogError):
    """A subscription could not be served for some time, for a trouble that may pass: subscribe again later."""

    code = "subscription_unavailable"


class BodyInvalidError(TidelogError):
    """The request body is not JSON, or doesn't fit the step's bodySchema."""

    code = "body_invalid"
    status = 400

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class QueryInvalidError(TidelogError):
    """The query string is not UTF-8, has a NUL character or too many fields."""

    code = "query_invalid"
    status = 400


class PathInvalidError(TidelogError):
    """The path of a request is not UTF-8, or has a NUL character."""

    code = "path_invalid"
    status = 400


class BodyTooLargeError(TidelogError):
    """The request body is over TIDELOG_BODY_SIZE_MAX_BYTES."""

    code = "body_too_large"
    status = 413


class UnauthorizedError(TidelogError):
    """A request that the authentication refuses, or one of nobody where somebody is wanted.

    An author's `authenticate` raises it to refuse; the message is told to the client.
    """

    code = "unauthorized"
    status = 401


class TokenExpiredError(UnauthorizedError):
    """A token that was right, and isn't any more: who sends it has not guessed it."""


class TooManyAttemptsError(TidelogError):
    """An address has sent more wrong tokens than TIDELOG_WRONG_TOKENS_PER_MINUTE_MAX allows."""

    code = "too_many_attempts"
    status = 429

    def __init__(self, per_minute: int, retry_seconds: int) -> None:
        super().__init__(
            f"more than {per_minute} wrong tokens came from this address in a minute: try again in {retry_seconds} s"
        )
        self.retry_seconds = retry_seconds


class AuthenticationUnavailableError(TidelogError):
    """Who sends a request could not be found out: the authentication failed, or took too long. Nobody is let in."""

    code = "authentication_unavailable"
    status = 503

    def __init__(self) -> None:
        super().__init__("who sends this could not be found out; nothing was done, try again later")


class TokenSettingsError(TidelogError):
    """TIDELOG_JWT_* don't say how tokens are verified. No secret is in the message."""

    code = "jwt_settings_invalid"


class ExposedError(TidelogError):
    """An address that others reach is to be served without authentication, and nobody said that it should be."""

    code = "access_undecided"
    status = 403


class HostForbiddenError(TidelogError):
    """A request names a host that this server is not meant to be: TIDELOG_ALLOWED_HOSTS."""

    code = "host_forbidden"
    status = 403


class OriginForbiddenError(TidelogError):
    """A page of another origin, which TIDELOG_CORS_ORIGINS doesn't allow, opens a socket or changes something."""

    code = "origin_forbidden"
    status = 403


class UpgradeRequiredError(TidelogError):
    """A WebSocket's handshake came as a plain request: a proxy dropped a part of it, or it is of another version."""

    code = "upgrade_required"
    status = 426


class UpgradeWithBodyError(TidelogError):
    """A request with a body asks for another protocol: the server's parser takes the body for that protocol's."""

    code = "upgrade_with_body"
    status = 400

    def __init__(self) -> None:
        super().__init__(
            "a request with a body can't ask for an upgrade to another protocol: send it without the header Upgrade "
            "(curl: --http1.1)"
        )


class ServerFullError(TidelogError):
    """A server process has as many connections as its limit of open files allows; nothing has begun."""

    code = "server_full"
    status = 503

    def __init__(self) -> None:
        super().__init__("this server process has no room for more connections; nothing was stored, try again later")


class TooManyConnectionsError(TidelogError):
    """A client has as many connections as TIDELOG_CONNECTIONS_PER_ADDRESS_MAX or _PER_SUBJECT_MAX allows."""

    code = "too_many_connections"
    status = 429

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(
            f"there are {limit} connections of this {what} to this server process, which are all it may have "
            f"(TIDELOG_CONNECTIONS_PER_{what.upper()}_MAX): close one, or try again later"
        )


class TooManyJoinsError(TidelogError):
    """A client begins more subscriptions than TIDELOG_SOCKET_JOINS_PER_SECOND_MAX allows; it may go on later."""

    code = "too_many_joins"

    def __init__(self, per_second: float, retry_seconds: int) -> None:
        super().__init__(
            f"more than {per_second:g} subscriptions a second, for too long: subscribe again in {retry_seconds} s"
        )
        self.retry_seconds = retry_seconds


class ClientGoneError(TidelogError):
    """The client closed its connection before its step was committed; the step is rolled back."""

    code = "client_gone"
    status = 499  # nginx's number for it; nobody is there to read it, but the access log is


class DatabaseUnavailableError(TidelogError):
    """The database can't be reached, is starting or stopping, or has no connection left. Nothing was stored."""

    code = "database_unavailable"
    status = 503


class NoConnectionError(DatabaseUnavailableError):
    """No connection could be had, opened or given back in time; nothing has begun."""


class StepBusyError(TidelogError):
    """A step's other runs have all the connections that one step may have. Nothing has begun."""

    code = "step_busy"
    status = 503


class ServerStoppingError(TidelogError):
    """The server stops, and the step ran for longer than that waits: it was broken off, and nothing of it is stored."""

    code = "server_stopping"
    status = 503

    def __init__(self) -> None:
        super().__init__("the server stops, and the step was broken off; nothing was stored, try again")


class CommitUnknownError(TidelogError):
    """COMMIT was on its way when the connection broke, or the server stopped: only the stored items tell.

    Or a step without a transaction was broken off, of which something is stored, or may be.
    """

    code = "commit_unknown"
    status = 503


class TransactionAbortedError(TidelogError):
    """The step's transaction could not be committed, though its handler answered: nothing was stored."""

    code = "transaction_aborted"


class StepEndedError(TidelogError):
    """A context was used after its step's handler had returned."""

    code = "step_ended"

    def __init__(self) -> None:
        super().__init__(
            "the step's handler has returned, and its context ended with it: do the work before it returns, "
            "or on a connection of your own"
        )


class StepTimedOutError(TidelogError):
    """A step's handler ran longer than it may; its transaction is rolled back."""

    code = "step_timed_out"
    status = 504

    def __init__(self, limit_seconds: float) -> None:
        super().__init__(
            f"the step's handler ran for longer than its {limit_seconds:g} s and was broken off; more is given by "
            '"timeoutSeconds" in its config, or for all steps by TIDELOG_STEP_TIMEOUT_SECONDS'
        )


class ThreadsStuckError(TidelogError):
    """Every thread for plain handlers is held by one that does not end: only a restart helps."""

    code = "threads_stuck"
    status = 503


class EmitInvalidError(TidelogError):
    """What is emitted is no event: it has no topic, or its data is no JSON, or is over the size limit."""

    code = "emit_invalid"


class TopicUndeclaredError(EmitInvalidError):
    """A step emits an event whose topic is not in its `emits`."""

    code = "topic_undeclared"

    def __init__(self, step: str, topic: object, declared: Sequence[str]) -> None:
        super().__init__(
            f"step {step} emits {topic!r:.80}, which is not in its config's `emits`: "
            + (f"there are {', '.join(declared)}" if declared else "there are none")
        )


class TopicUnknownError(EmitInvalidError):
    """A program that is no step emits an event, or a worker is for one, to which no step that it knows subscribes."""

    code = "topic_unknown"

    def __init__(self, topic: object, known: Sequence[str]) -> None:
        super().__init__(
            f"no step subscribes to {topic!r:.80}: "
            + (f"there are {', '.join(known)}" if known else "no event steps are known here, see steps_dir")
        )


class JobUnknownError(TidelogError):
    """Nothing is parked of what a command of `tidelog jobs` is to look after; nothing was changed."""

    code = "job_unknown"

    def __init__(self, id: int | None, step: str | None) -> None:
        what = "no job" if id is None else f"no job {id}"
        of_step = "" if step is None else f" of step {step!r:.80}"
        super().__init__(f"{what}{of_step} is parked: `tidelog jobs list` shows those that are")


class InputInvalidError(TidelogError):
    """A job's input doesn't fit the `input` of its step; trying again would not help, so it is parked."""

    code = "input_invalid"


class ClaimLostError(TidelogError):
    """Another worker has the job by now, or had it, or it was dropped: what this one did is rolled back."""

    code = "claim_lost"


class WorkersDiedError(TidelogError):
    """Every process that began a job has died before it could say what came of it."""

    code = "workers_died"


class AnswerInvalidError(TidelogError):
    """A step's handler answered something that can't be sent; its transaction is rolled back."""

    code = "answer_invalid"


class NotSupportedError(TidelogError):
    """A part of Motia that Tidelog does not have (yet)."""

    code = "not_supported"


class NoStepRunningError(TidelogError):
    """What belongs to a running step was called where none runs."""

    code = "no_step_running"


class EmbeddedPostgresError(TidelogError):
    """The embedded Postgres could not be started; the message has the end of its log."""

    code = "embedded_postgres_failed"


class EpochError(TidelogError):
    """The database is a copy in another cluster (dump and restore): its old log can't be continued as it is."""

    code = "epoch_foreign"


class PositionTooOldError(TidelogError):
    """A position from which the log is not kept any more: going on from it would skip commits silently."""

    code = "position_too_old"


class PositionForeignError(TidelogError):
    """A position that this database's history does not have: of another epoch, or ahead of the last commit."""

    code = "position_foreign"


class ReadsBusyError(TidelogError):
    """More reads over HTTP than this process serves at once, or one that could not be told exactly for some time."""

    code = "reads_busy"
    status = 503

    def __init__(self) -> None:
        super().__init__("this server process has too many reads at once; try again")


class ReadTooSlowError(TidelogError):
    """A read over HTTP took longer than it may: its group is very large, or the database is busy."""

    code = "read_too_slow"
    status = 503

    def __init__(self, seconds: float) -> None:
        super().__init__(f"this took the database longer than {seconds:g} s: ask for less at once, or by SQL")


class WaitTimedOutError(TidelogError):
    """A transaction, or a position, that a request waits for was not in the feed in time. It may be asked for again."""

    code = "wait_timed_out"
    status = 504


class TransactionNotPassedError(TidelogError):
    """What a client waits for will not come, or did not in time; `code` is the server's."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class ItemUnknownError(TidelogError):
    """There is no such item, or there was none at that position."""

    code = "item_unknown"
    status = 404


class ItemNotKeptError(TidelogError):
    """An item was there at that position, and what it was is not kept any more."""

    code = "item_not_kept"
    status = 410


class NoSuchStreamError(TidelogError):
    """Over HTTP: no stream of this name, or not for this caller, who doesn't learn which."""

    code = "stream_unknown"
    status = 404

    def __init__(self) -> None:
        super().__init__("there is no such stream, or it is not for you")


class ServerUnreachableError(TidelogError, ConnectionError):
    """A client's first connection could not be made: nobody is there, or the way is wrong. It may be tried again."""

    code = "server_unreachable"


class ServerRefusedError(TidelogError):
    """The server refused a client's connection, or closed it for good: coming back would end the same."""

    code = "server_refused"

    def __init__(self, message: str, close_code: int | None = None) -> None:
        super().__init__(message)
        self.close_code = close_code  # of the WebSocket; None if it was never opened


class ServerNotUnderstoodError(TidelogError):
    """A client got something from its server that is not the protocol that they agreed on."""

    code = "server_not_understood"


class SubscriptionRefusedError(TidelogError):
    """The server refused or ended a subscription; `code` is the server's."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class SnapshotTooLargeError(TidelogError):
    """A group is larger than one snapshot may be."""

    code = "group_too_large"


class ItemUnreadableError(TidelogError):
    """An item that the database stores but can't read: damaged, larger than a text may be, or with invalid bytes."""

    code = "item_unreadable"


class AdoptionError(TidelogError):
    """scripts/adopt found no log, could not lock the writers out, or was refused by Postgres; nothing was changed."""

    code = "adoption_refused"


class ErasureError(TidelogError):
    """There is no such stream, or the role may not rewrite the log; nothing was erased."""

    code = "erasure_refused"


class MessageInvalidError(TidelogError):
    """A WebSocket message that can't be understood; the connection goes on."""

    code = "message_invalid"


class ApplicationUnfitError(TidelogError):
    """An application that `tidelog.testing` can't serve for a test as it is; the message says what to change."""

    code = "application_unfit"


class NotSettledError(TidelogError, TimeoutError):
    """What was committed did not reach the subscribers of a test in time; the message says what did not."""

    code = "not_settled"


class NotRecordedError(TidelogError, TimeoutError):
    """What a test waited for did not come; the message says what came instead."""

    code = "not_recorded"
