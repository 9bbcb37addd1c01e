-- Put parked jobs into the queue again, with all their attempts before them: one, by its id; a step's, by its name. Answers
-- how many there were. A job comes to its old place in the order of its key, and those of its key that were put aside are due.
-- Called by hand and by `tidelog jobs`. Locks: FOR UPDATE on streams.step_turn; those of its deletes, inserts and updates.
create or replace function streams.retry_parked(parked_id bigint default null, step_name text default null) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    done bigint;
begin
    if parked_id is null and step_name is null then
        raise exception using errcode = '22004', message = 'which? give parked_id => ... or step_name => ...';
    end if;
    perform from streams.step_turn for update;  -- who claims puts aside what comes behind a parked job
    with gone as (
        delete from streams.step_parked p
        where (parked_id is null or p.id = parked_id) and (step_name is null or p.step = step_name)
        returning p.*
    ),
    back as (
        insert into streams.step_job (id, step, topic, key, input, trace_id, emitted_at, claim)
        overriding system value
        select g.id, g.step, g.topic, g.key, g.input, g.trace_id, g.emitted_at, g.claim from gone g
    ),
    resumed as (
        update streams.step_job j set due_at = clock_timestamp()
        from (select distinct g.step, g.key from gone g where g.key is not null) k
        where j.step = k.step and j.key = k.key and j.due_at = 'infinity'
    )
    select count(*) into done from gone;
    perform streams.ring_workers();
    return done;
end
$$;
