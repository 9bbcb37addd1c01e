-- What steps keep by context.state: any JSON value at a group and a key. No stream: nothing of it is in the log or in the
-- feed. A key is as bounded as an item's.
create table streams.context_state (
    group_id   text        not null collate "C" check (octet_length(group_id) between 1 and 1024),
    key        text        not null collate "C" check (octet_length(key) between 1 and 1024),
    value      jsonb       not null,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (group_id, key)
);
