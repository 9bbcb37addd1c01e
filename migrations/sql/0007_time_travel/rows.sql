-- What a stream's _as_of and _diff answer. Types, since only these can say that a key is `collate "C"`, as it is in the
-- log's index: `where group_id = 'x'` is then looked up there. (No stream's table begins with an underscore.)
create type streams._as_of_row as (
    group_id text collate "C",
    id       text collate "C",
    data     jsonb,         -- null: the item was there, and what it was is not kept
    version  bigint,
    position bigint,        -- of the commit that made it so; null: it is not kept
    at       timestamptz    -- of the same
);

create type streams._diff_row as (
    group_id       text collate "C",
    id             text collate "C",
    op             text,    -- create, update, delete: of all that happened in between, together
    before         jsonb,   -- null: it was not there; or, of an update, what it was is not kept
    after          jsonb,   -- null: it is not there any more
    version_before bigint,
    version_after  bigint,
    position       bigint,  -- of the last commit that touched it
    at             timestamptz
);
