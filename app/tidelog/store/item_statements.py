"""The statements of one stream's table. An item that has expired, and is not deleted yet, is none to all of them."""

from __future__ import annotations

from tidelog.model.stream import Stream

# An expired item is deleted a moment later, by expire_items.sql. Not by now(), which is when the transaction began.
LIVE = "(expires_at is null or expires_at > clock_timestamp())"
COLUMNS = "data::text, version, created_at"
# The last column of every write: it is in the transaction whose id this is, and to ask for it later is a round trip.
TRANSACTION = "streams.transaction_id()"
# Seconds from now; null is never. (Not make_interval(), which counts in microseconds of an int.)
UNTIL = "clock_timestamp() + $4::float8 * interval '1 second'"


class ItemStatements:
    """As texts. `$1` is the group id, and `$2` the item's id. Rows are COLUMNS; of writes, and TRANSACTION last."""

    def __init__(self, stream: Stream) -> None:
        table = f"streams.{stream.table}"  # a validated identifier: letters, digits, underscores
        at = "group_id = $1 and id = $2"
        returning = f"returning {COLUMNS}, {TRANSACTION}"
        replace = "do update set data = excluded.data, expires_at = excluded.expires_at"
        expired = f"where not {LIVE.replace('expires_at', 'item.expires_at')}"
        insert = f"insert into {table} as item (group_id, id, data) values ($1, $2, $3::text::jsonb)"  # noqa: S608
        insert_until = (
            f"insert into {table} as item (group_id, id, data, expires_at) "  # noqa: S608
            f"values ($1, $2, $3::text::jsonb, {UNTIL})"
        )
        update = f"update {table} as item set data = $3::text::jsonb, expires_at"  # noqa: S608

        self.table = table
        self.get = f"select {COLUMNS} from {table} where {at} and {LIVE}"  # noqa: S608
        # With $3, the data; those named `until` with $4, the seconds to live.
        self.set = f"{insert} on conflict (group_id, id) {replace} {returning}"
        self.set_until = f"{insert_until} on conflict (group_id, id) {replace} {returning}"
        self.create = f"{insert} on conflict (group_id, id) {replace} {expired} {returning}"
        self.create_until = f"{insert_until} on conflict (group_id, id) {replace} {expired} {returning}"
        self.set_version = f"{update} = default where {at} and version = $4 and {LIVE} {returning}"
        self.set_version_until = f"{update} = {UNTIL} where {at} and version = $5 and {LIVE} {returning}"
        self.delete = f"delete from {table} where {at} returning {COLUMNS}, {LIVE} as is_live, {TRANSACTION}"  # noqa: S608
        self.delete_version = f"delete from {table} where {at} and version = $3 and {LIVE} {returning}"  # noqa: S608
        # For a change in two steps: what is there, expired or not; and its new data, if it still is what was read.
        # A version alone doesn't tell that: it begins anew when an item is deleted and created.
        self.read = f"select {COLUMNS}, {LIVE} as is_live from {table} where {at}"  # noqa: S608
        self.insert = f"{insert} on conflict (group_id, id) do nothing {returning}"
        self.keep = f"{update} = expires_at where {at} and version = $4 and created_at = $5 {returning}"
        self.renew = f"{update} = default where {at} and version = $4 and created_at = $5 {returning}"

        self.list = f"select {COLUMNS} from {table} where group_id = $1 and {LIVE} order by created_at, id"  # noqa: S608
        self.place = f"select created_at from {table} where {at}"  # noqa: S608
        self.count_group = f"select count(*) from {table} where group_id = $1 and {LIVE}"  # noqa: S608
        self.count_all = f"select count(*) from {table} where {LIVE}"  # noqa: S608
        self.clear = (
            f"with gone as (delete from {table} where group_id = $1 returning {LIVE} as is_live) "  # noqa: S608
            f"select count(*) filter (where is_live), {TRANSACTION} from gone"
        )
        # From group to group by the key, whatever they hold. $1 is where to go on from, $2 how many.
        self.groups = (
            f"with recursive groups (group_id) as ("  # noqa: S608
            f"(select group_id from {table} where group_id > $1 and {LIVE} order by group_id limit 1) union all "
            f"select (select item.group_id from {table} as item where item.group_id > groups.group_id "
            f"and {LIVE.replace('expires_at', 'item.expires_at')} order by item.group_id limit 1) "
            "from groups where groups.group_id is not null) "
            "select group_id from groups where group_id is not null limit $2"
        )
        # Group after group, in the order of the key, which is what makes pages cheap.
        self.list_all = (
            f"select {COLUMNS}, group_id from {table} where (group_id, id) > ($1, $2) and {LIVE} "  # noqa: S608
            "order by group_id, id limit $3"
        )
