-- Tidelog's core: the change log and its commit numbers.
--
-- How a change travels. A stream's table (made by streams.declare) has a row trigger that copies every
-- create, update and delete into streams.change, in the writer's own transaction: a change is in the log
-- if and only if its transaction committed. The writer draws no number. One process, the sequencer, finds
-- the transactions that became visible since it last looked, gives them the next numbers in
-- streams.commit, and tells all readers how far the numbers go. A commit's number is its place in the feed:
-- dense, never reused, and never handed out before the commit can be seen by everybody.
--
-- Ephemeral events go the same way through streams.event, so that they keep their place among the
-- changes; the table is unlogged and its rows are removed some time after they were numbered.
--
-- Everything is insert-only but events and consumers: a row that were updated at every batch (a counter, a cursor) would
-- slow down for as long as somebody's old snapshot keeps vacuum from cleaning up behind it.

-- Draws the order of writes inside the feed. CACHE 1: with more, each session would draw from its own
-- range, and two writes to one item, which the row lock puts in order, could be numbered the other way.
create sequence streams.write_seq as bigint cache 1;

-- The streams that migrations have made tables for.
create table streams.stream (
    name        text primary key,        -- as declared: chatMessage
    table_name  text not null unique,    -- streams.<table_name>
    schema      jsonb not null,          -- JSON Schema of its items, as declared last
    declared_at timestamptz not null default now()
);

-- Every change ever made. A transaction's changes are found by its xid, which is all that the sequencer
-- and the readers ask for; one index keeps the write cheap.
create table streams.change (
    seq      bigint not null default nextval('streams.write_seq'),
    xid      xid8   not null default pg_current_xact_id(),  -- the top-level transaction, savepoints or not
    stream   text   not null,
    group_id text   not null,
    id       text   not null,
    op       text   not null,   -- create, update, delete
    version  bigint not null,
    data     jsonb  not null,   -- the item; of a delete, the item as it was
    primary key (xid, seq)
);

-- Commits in their order. `snapshot` is on the last commit of each batch: what the sequencer saw when it
-- numbered it. Its successor starts from there: every transaction visible in it has a number.
-- The two unique keys are the fence: a second sequencer that lost its lock unawares fails on them.
create table streams.commit (
    number   bigint      primary key,
    xid      xid8        not null unique,
    last_seq bigint      not null,  -- of the commit's last write: what the commits of a batch are ordered by
    at       timestamptz not null,  -- one clock reading a batch, at least 10 microseconds from commit to commit
    snapshot pg_snapshot
);

-- Messages that are delivered and forgotten. Unlogged: no WAL for them, and they're gone after a crash.
create unlogged table streams.event (
    seq      bigint not null default nextval('streams.write_seq'),
    xid      xid8   not null default pg_current_xact_id(),
    stream   text   not null,
    group_id text   not null,
    id       text,              -- null: to the whole group
    type     text   not null,
    data     jsonb  not null,
    primary key (xid, seq)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- xids and numbers mean something only within one database history, which begins anew where the tables were
-- copied, restored or promoted: then one of the four columns in the middle differs from what the server says.
create table streams.epoch (
    epoch             uuid primary key default gen_random_uuid(),
    system_identifier bigint not null,     -- the cluster
    timeline          bigint not null,     -- its branch: another one after a promotion or a restored backup
    database          oid    not null,     -- another one in a copy made by CREATE DATABASE ... TEMPLATE
    log               oid    not null,     -- of streams.commit: another one after a dump was restored
    since_number      bigint not null,     -- the head when it began
    began_at          timestamptz not null -- grows from row to row, whatever the clock does
);

-- How far each durable consumer has come (app/tidelog/consumer.py). The row is written in the consumer's own transaction,
-- together with its effects, and its lock is what makes several processes of one consumer take turns.
-- Retention keeps what the last of them has still to read.
create table streams.consumer (
    name       text        primary key,
    position   bigint      not null,     -- the last commit whose effects are stored
    epoch      uuid        not null,     -- the database history that the position belongs to
    updated_at timestamptz not null default clock_timestamp()
);
