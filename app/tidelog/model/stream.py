"""A declared stream: its name, its table's name, the schema that its items must fit, who may have it, what is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidelog.errors import DeclarationError, ItemInvalidError, OperationInvalidError, shown
from tidelog.model.index import Index, indexes_of
from tidelog.model.retention import StreamRetention
from tidelog.model.rule import NO_RULE, SPELLINGS, Rule
from tidelog.model.schema import Schema, compile_declared, takes_objects

# Identifiers are cut silently at 63 bytes (NAMEDATALEN): this leaves room for `<table>_history`, and for what people
# name after the table (an index, say).
TABLE_NAME_LENGTH_MAX = 48
# The feed's own tables and its sequence live in the same schema, and the queue's.
RESERVED_TABLE_NAMES = frozenset(
    {"alembic_version", "change", "commit", "consumer", "context_state", "epoch", "event", "stream"}
    | {"step_job", "step_job_id_seq", "step_parked", "step_cron", "step_stream", "step_turn"}
    | {"stream_floor", "write_seq"}
)
TTL_MAX_SECONDS = 100 * 366 * 86_400  # a hundred years: what is to stay longer needs no time to live
HISTORY_SUFFIX = "_history"

_KEYS = frozenset({"name", "description", "schema", "baseConfig", "indexes", "retention", "ttl", *SPELLINGS})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
_ID = re.compile("""['"]id['"]""")  # in a violation's message, which quotes names
_CAMEL_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True, slots=True, init=False)
class Stream:
    """A collection of items. `name` is what steps and subscribers say, `table` what SQL says."""

    name: str
    table: str
    schema: Schema = field(repr=False)
    rule: Rule = field(repr=False)
    indexes: tuple[Index, ...] = field(repr=False)
    retention: StreamRetention | None = field(repr=False)
    # How long its items live, unless set() says otherwise; None: for ever.
    ttl_seconds: float | None = field(repr=False)
    file: Path | None = field(repr=False, compare=False)  # that declares it, for messages

    def __init__(
        self,
        name: str,
        schema: Any = True,
        *,
        indexes: Any = (),
        retention: Any = None,
        ttl: float | None = None,
        file: Path | None = None,
        **functions: Any,
    ) -> None:
        """`schema` is a pydantic class, or JSON Schema; any object fits True. Raises DeclarationError.

        `indexes` are its table's beside the key, and `retention` is how much of its past is kept (a number of seconds,
        {"seconds": n} or {"changes": n}; None: all): see the page of the database. `ttl` is how many seconds an item
        lives after it was set; it is deleted then. `functions` say who may have it: `can_access`, `can_list`,
        `on_join`, `on_leave`. See the page of tidelog.access.
        """
        if unknown := sorted(functions.keys() - SPELLINGS.keys()):
            raise DeclarationError(f"stream {name!r}: there is no {unknown[0]!r}; there are {', '.join(SPELLINGS)}")
        try:
            compiled = compile_declared(schema)
        except DeclarationError as error:
            raise DeclarationError(f"stream {name!r}: {error}") from error
        if not takes_objects(compiled):
            raise DeclarationError(
                f"stream {name!r}: no JSON object fits its schema, and every item is one: declare what an item is, "
                'as {"type": "object", ...}, not a list of items'
            )
        try:
            rule = Rule.of(functions) if functions else NO_RULE
            kept = StreamRetention.of(retention)
        except DeclarationError as error:
            raise DeclarationError(f"stream {name!r}: {error}") from error
        table = table_name(name)
        try:
            indexed = indexes_of(table, indexes)
        except DeclarationError as error:
            raise DeclarationError(f"stream {name!r}: {error}") from error
        try:
            ttl_seconds = None if ttl is None else checked_ttl(ttl) or None
        except OperationInvalidError as error:
            raise DeclarationError(f"stream {name!r}: {error}") from None
        object.__setattr__(self, "name", name)  # frozen
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "indexes", indexed)
        object.__setattr__(self, "file", file)
        object.__setattr__(self, "schema", compiled)
        object.__setattr__(self, "rule", rule)
        object.__setattr__(self, "retention", kept)
        object.__setattr__(self, "ttl_seconds", ttl_seconds)

    @classmethod
    def from_config(cls, config: Any, file: Path | None = None) -> Stream:
        """Read the `config` of a *_stream.py, which is `file`. Raises DeclarationError saying what is wrong with it."""
        if not isinstance(config, dict):
            raise DeclarationError(f"config must be a dict with name and schema, not {config!r:.80}")
        given = {key: value for key, value in config.items() if value is not None}
        name = given.get("name")
        if not isinstance(name, str):
            said = f"not {name!r:.80}" if "name" in given else "and it is missing"
            raise DeclarationError(f'config["name"] must be a string, {said}')
        for key in sorted(given.keys() - _KEYS, key=repr):
            # What an author declared is done or refused: ignored, a rule would open what it closes.
            raise DeclarationError(
                f"stream {name!r}: config has {key!r}, which no stream has; its keys are {', '.join(sorted(_KEYS))}"
            )
        base = given.get("baseConfig", {"storageType": "default"})
        if not isinstance(base, dict) or base.get("storageType", "default") != "default":
            raise DeclarationError(
                f'stream {name!r}: baseConfig must be {{"storageType": "default"}}, not {base!r:.80}; '
                "Tidelog stores every stream in Postgres"
            )
        functions = {key: config[key] for key in config if key in SPELLINGS}  # None is no function: nothing is opened
        return cls(
            name,
            given.get("schema", {}),
            indexes=given.get("indexes", ()),
            retention=given.get("retention"),
            ttl=given.get("ttl"),
            file=file,
            **functions,
        )

    def check(self, item: dict[str, Any], item_id: str) -> dict[str, Any]:
        """Return `item` with its id, or raise ItemInvalidError.

        A schema may or may not mention `id`, and may forbid what it does not mention; the item fits if it
        fits with its id or without it.
        """
        with_id = {**item, "id": item_id}
        if self.schema.fits(with_id):
            return with_id
        without_id = {key: value for key, value in item.items() if key != "id"}
        if self.schema.fits(without_id):
            return with_id
        found, tried = min(
            ((self.schema.find(one), one) for one in (with_id, without_id)),
            # Of as many the ones that don't name the id: it may always be there, and is never what is wrong.
            key=lambda found: (len(found[0]), sum(bool(_ID.search(violation.message)) for violation, _ in found[0])),
        )
        violations = [violation for violation, _ in found]
        where = "; ".join(f"{v.path or 'the item'}: {v.message}" for v in violations[:3])
        raise ItemInvalidError(
            f"item {item_id!r:.80} does not fit the schema of stream {self.name!r}: {where}",
            violations,
            # The item itself as it was given, and not with the id that was put into it here.
            culprits=[item if value is tried else value for _, value in found],
        )


def check_is_stream(given: object, where: str) -> None:
    """Raise DeclarationError for what was given as a stream and is none: a name, or its class."""
    if isinstance(given, Stream):
        return
    instead = f"Stream({given!r:.80}, ...)" if isinstance(given, str) else 'Stream("job", Job)'
    raise DeclarationError(
        f"{where} has {shown(given)}, which is no stream: write [{instead}] there, with a name and a schema; "
        "streams of *_stream.py files come with steps_dir"
    )


def checked_ttl(seconds: Any) -> float:
    """Seconds to live; 0 is for ever. Raises OperationInvalidError."""
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds <= TTL_MAX_SECONDS:
        raise OperationInvalidError(
            f"ttl is a number of seconds from 0 (for ever) to {TTL_MAX_SECONDS}, not {shown(seconds)}",
            culprits=[seconds],
        )
    return float(seconds)


def table_name(name: str) -> str:
    """The snake_case table name of a stream: `chatMessage` and `chat-message` are `chat_message`."""
    if not _NAME.fullmatch(name):
        raise DeclarationError(f"stream name {name!r}: use letters, digits, '_' and '-', beginning with a letter")
    table = _CAMEL_BOUNDARY.sub("_", name).replace("-", "_").lower()
    if len(table) > TABLE_NAME_LENGTH_MAX:
        raise DeclarationError(
            f"stream name {name!r}: its table name has {len(table)} characters; at most "
            f"{TABLE_NAME_LENGTH_MAX} keep the names made from it within Postgres's 63 bytes"
        )
    if table in RESERVED_TABLE_NAMES or table.endswith(HISTORY_SUFFIX):
        raise DeclarationError(
            f"stream name {name!r}: the table name {table!r} is taken by Tidelog itself; choose another"
        )
    return table
