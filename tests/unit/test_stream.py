"""What a stream's config may say, and which items fit it."""

from typing import Any

import pytest
from pydantic import BaseModel

from tidelog.errors import DeclarationError, ItemInvalidError
from tidelog.model.retention import StreamRetention
from tidelog.model.stream import RESERVED_TABLE_NAMES, TABLE_NAME_LENGTH_MAX, Stream, table_name


class Message(BaseModel):
    id: str
    text: str


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("chat", "chat"),
        ("chatMessage", "chat_message"),
        ("chat-message", "chat_message"),
        ("Chat_Message", "chat_message"),
        ("HTTPRequest2", "http_request2"),
        ("v2Item", "v2_item"),
        ("a" * TABLE_NAME_LENGTH_MAX, "a" * TABLE_NAME_LENGTH_MAX),
    ],
)
def test_a_table_is_named_in_snake_case(name: str, table: str) -> None:
    """SQL needs no quotes for a stream's table."""
    assert table_name(name) == table


@pytest.mark.parametrize(
    "name",
    ["", "1a", "_a", "a b", "a.b", 'a"', "é", "a\n", "chatHistory", *sorted(RESERVED_TABLE_NAMES), "a" * 49],
)
def test_a_name_that_would_hurt_in_sql_is_refused(name: str) -> None:
    """Names become identifiers beside Tidelog's own, within 63 bytes."""
    with pytest.raises(DeclarationError, match="stream name"):
        table_name(name)


@pytest.mark.parametrize("schema", [Message, Message.model_json_schema()])
def test_a_schema_is_a_model_or_json_schema(schema: Any) -> None:
    """A model class and its model_json_schema() mean the same."""
    stream = Stream.from_config({"name": "chat", "schema": schema, "baseConfig": {"storageType": "default"}})
    assert (stream.name, stream.table) == ("chat", "chat")
    assert stream.check({"text": "hi"}, "1") == {"id": "1", "text": "hi"}
    with pytest.raises(ItemInvalidError, match="/text") as refused:
        stream.check({"text": 5}, "1")
    assert [violation.path for violation in refused.value.violations] == ["/text"]


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        (None, None),
        (3600, StreamRetention(seconds=3600.0)),
        ({"seconds": 0.5}, StreamRetention(seconds=0.5)),
        ({"changes": 100}, StreamRetention(changes=100)),
    ],
)
def test_a_stream_says_how_much_of_its_past_is_kept(declared: Any, kept: StreamRetention | None) -> None:
    """In its config, or in Python; without a word all of it is."""
    assert Stream.from_config({"name": "chat", "retention": declared}).retention == kept
    assert Stream("chat", retention=declared).retention == kept


@pytest.mark.parametrize(
    "declared",
    [0, -1, True, "1 day", [], {}, {"days": 1}, {"changes": 0}, {"changes": 1.5}, {"changes": True}, {"changes": 10**9},
     {"seconds": 1, "changes": 1}, float("nan"), float("inf"), 1e12],
)  # fmt: skip
def test_a_retention_that_cant_be_is_refused(declared: Any) -> None:
    """Rather than that something is removed, or kept, against the author's will."""
    with pytest.raises(DeclarationError, match=r"stream 'chat': retention"):
        Stream.from_config({"name": "chat", "retention": declared})


def test_an_absent_schema_takes_any_item() -> None:
    """Without a schema, or with None, every JSON object fits."""
    for config in ({"name": "chat"}, {"name": "chat", "schema": None, "description": None}):
        assert Stream.from_config(config).check({"a": 1}, "1") == {"a": 1, "id": "1"}


def test_a_schema_need_not_mention_the_id() -> None:
    """Items carry their id even where the schema forbids what it does not name."""
    closed = {"properties": {"text": {"type": "string"}}, "additionalProperties": False}
    stream = Stream.from_config({"name": "chat", "schema": closed})
    assert stream.check({"text": "hi", "id": "other"}, "1") == {"text": "hi", "id": "1"}


@pytest.mark.parametrize("word", ["additionalProperties", "unevaluatedProperties"])
def test_the_id_is_never_what_is_wrong(word: str) -> None:
    """A refusal of fields that aren't declared doesn't name it: it is every item's, whatever the schema says."""
    closed = Stream("job", {"type": "object", "properties": {"title": {"type": "string"}}, word: False})
    for item in ({"titel": "a"}, {"titel": "a", "id": "1"}):
        with pytest.raises(ItemInvalidError, match="'titel' was unexpected") as raised:
            closed.check(item, "1")
        assert "'id'" not in str(raised.value) + str(raised.value.violations)
    needed = Stream(
        "job", {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"], word: False}
    )
    with pytest.raises(ItemInvalidError, match="'titel'") as raised:
        needed.check({"titel": "a"}, "1")
    assert "required" not in str(raised.value)


def may(subscription: Any, auth: Any) -> bool:
    return False


def yields(subscription: Any) -> Any:
    yield True


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config must be a dict"),
        ({}, 'config["name"] must be a string, and it is missing'),
        ({"name": 5}, 'config["name"] must be a string, not 5'),
        ({"name": "a", "baseConfig": {"storageType": "redis"}}, "stores every stream in Postgres"),
        ({"name": "a", "schema": {"type": "sting"}}, "stream 'a': not a valid JSON Schema: /type: \"sting\""),
        ({"name": "a", "Schema": {}}, "config has 'Schema', which no stream has; its keys are baseConfig, canAccess"),
        ({"name": "a", "canAccess": None}, "stream 'a': canAccess must be a function, not None"),
        ({"name": "a", "can_access": False}, "stream 'a': can_access must be a function, not False"),
        ({"name": "a", "onJoin": "admins"}, "onJoin must be a function, not 'admins'"),
        ({"name": "a", "canAccess": may, "can_access": may}, "canAccess and can_access are the same"),
        ({"name": "a", "canAccess": lambda: True}, "canAccess() must take (subscription, auth) or (subscription)"),
        ({"name": "a", "canAccess": lambda a, b, c: True}, "canAccess(a, b, c) must take (subscription, auth)"),
        ({"name": "a", "canAccess": yields}, "canAccess yields"),
        ({"name": "a", "canaccess": may}, "config has 'canaccess', which no stream has"),
        ({"name": "a", "guard": print}, "config has 'guard', which no stream has"),
    ],
)
def test_a_refusal_names_the_value(config: Any, message: str) -> None:
    """The author reads what is wrong; what would close a stream is never ignored."""
    with pytest.raises(DeclarationError) as refused:
        Stream.from_config(config)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "object"}},
        {"type": ["array", "null"]},
        {"type": "string"},
        list[Message],
        int,
        False,
        {"const": "done"},
        {"enum": [1, "two", None]},
        {"$ref": "#/$defs/List", "$defs": {"List": {"type": "array"}}},
        {"allOf": [{"type": "object"}, {"$ref": "#/$defs/a~1b%20c"}], "$defs": {"a/b c": {"type": "number"}}},
        {"anyOf": [{"type": "null"}, {"oneOf": [{"type": "array"}, False]}]},
    ],
)
def test_a_schema_that_no_item_fits_is_refused(schema: Any) -> None:
    """When it is declared, and not when the first item is written."""
    with pytest.raises(DeclarationError, match="stream 'job': no JSON object fits its schema"):
        Stream.from_config({"name": "job", "schema": schema})


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"type": ["object", "null"]},
        Message,
        Message | None,
        {"enum": [1, {"a": 1}]},
        {"const": {}},
        {"properties": {"tags": {"type": "array"}}},
        {"$ref": "#", "type": "object"},
        {"$ref": "#/$defs/Node", "$defs": {"Node": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Node"}]}}},
        {"not": {"type": "array"}},
    ],
)
def test_a_schema_that_some_item_may_fit_is_taken(schema: Any) -> None:
    """Also where that takes more than a look."""
    Stream.from_config({"name": "job", "schema": schema})
