-- The queue of steps that react: event, cron, stream and state steps.
--
-- How a job travels. `context.emit` inserts one row for each step that subscribes to the topic, in the emitting step's own
-- transaction: there is a job if and only if that transaction committed. A worker claims it (streams.claim_jobs), which is a
-- lease: the row says until when nobody else may have it, and which claim it is. The handler runs, and the row is deleted
-- in the handler's own transaction, by its id and its claim: so what the handler wrote and "done" are one commit. A worker that
-- has lost its claim meanwhile deletes nothing, and rolls back.
--
-- No lock is held while a handler runs, and no transaction is open until it first uses the database. What a worker that was
-- killed had claimed becomes due again when its lease is over.
--
-- No stream may have one of these names (app/tidelog/model/stream.py).

create table streams.step_job (
    id         bigint      generated always as identity primary key,  -- the order within a key
    step       text        not null collate "C",  -- who is to handle it
    topic      text        not null,              -- why: the event's topic; of the other steps "cron", "stream" or "state"
    key        text        collate "C",           -- jobs of one step and key are handled one after the other; null: whenever
    input      jsonb       not null,
    trace_id   text        not null,
    emitted_at timestamptz not null default clock_timestamp(),
    due_at     timestamptz not null default clock_timestamp(),  -- not before; of a claimed one: when its lease is over
    is_claimed boolean     not null default false,
    claim      bigint      not null default 0,    -- grows with each: who has an older one has nothing
    unended    integer     not null default 0,    -- claims in a row that nobody said the end of: their workers died
    attempts   integer     not null default 0,    -- that failed
    error      text                               -- of the last of them
) with (
    -- Each job leaves two dead rows behind, at the beginning of what claims read.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000
);

create index step_job_due on streams.step_job (step, due_at, id) where key is null;

create index step_job_key on streams.step_job (step, key, id) where key is not null;

create index step_job_claimed on streams.step_job (step, key) where is_claimed;

-- Jobs that are not tried any more, for somebody to look at: streams.retry_parked and streams.drop_parked.
create table streams.step_parked (
    id         bigint      primary key,           -- the job's
    step       text        not null collate "C",
    topic      text        not null,
    key        text        collate "C",
    input      jsonb       not null,
    trace_id   text        not null,
    emitted_at timestamptz not null,
    parked_at  timestamptz not null default clock_timestamp(),
    attempts   integer     not null,
    error      text        not null,
    traceback  text        not null
);

create index step_parked_key on streams.step_parked (step, key);

-- The last tick of each cron step that has its job. It is written together with the job, so that there is one in the cluster.
create table streams.step_cron (
    step       text        primary key collate "C",
    expression text        not null,
    last_at    timestamptz not null
);

-- One row, locked by whoever claims: one at a time, for the length of one statement in the server.
create table streams.step_turn (
    is_only boolean primary key default true check (is_only)
);

insert into streams.step_turn default values;
