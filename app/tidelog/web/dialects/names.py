"""Names in clients' messages: of streams, groups, items and subscriptions."""

from json.encoder import encode_basestring
from typing import Any

from tidelog.errors import MessageInvalidError, shown

NAME_LENGTH_MAX = 1024  # of stream, group and item, as for keys
SUBSCRIPTION_NAME_LENGTH_MAX = 256  # the client's own; it is on every message

# A JSON string as Postgres writes it, too (to_json): what isn't ASCII stays as it is. A fifth of json.dumps' time.
quote = encode_basestring


def read_name(message: dict[str, Any], key: str, length_max: int = NAME_LENGTH_MAX) -> str:
    """The name at `key`. Raises MessageInvalidError for what is no string, or can't be a key in Postgres."""
    value = message.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= length_max or "\0" in value or not _is_utf8(value):
        raise MessageInvalidError(
            f"{key} must be a string of 1 to {length_max} characters, without NUL, not {shown(value)}"
        )
    return value


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, as JSON can have
        return False
    return True
