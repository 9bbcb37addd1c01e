-- Which steps the changes of streams are for (app/tidelog/queue/changes.py). All processes share one position in the log, and
-- whichever has its turn makes the jobs for all of these: also for those that only others have, as while a new release is
-- rolled out. `seen_at` is renewed by each process that has the step. A step that none has had for a day is forgotten.
create table streams.step_stream (
    step          text             primary key collate "C",
    stream        text             not null,
    group_id      text,            -- null: all
    item_id       text,            -- null: all
    delay_seconds double precision not null,
    seen_at       timestamptz      not null default clock_timestamp()
);

-- As step_job_due, of keyed jobs: what is due is found without a look at what isn't.
create index step_job_due_keyed on streams.step_job (step, due_at, id) where key is not null;

-- Claims are counted on when a parked job comes back: whoever had it before has nothing.
alter table streams.step_parked add column claim bigint not null default 0;
