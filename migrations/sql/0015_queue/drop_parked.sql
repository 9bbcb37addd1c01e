-- Forget parked jobs: one, by its id; a step's, by its name. Answers how many there were. Those of their keys that were put
-- aside are due. Called by hand and by `tidelog jobs`. Locks: FOR UPDATE on streams.step_turn; those of its deletes and updates.
create or replace function streams.drop_parked(parked_id bigint default null, step_name text default null) returns bigint
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
    resumed as (
        update streams.step_job j set due_at = clock_timestamp()
        from (select distinct g.step, g.key from gone g where g.key is not null) k
        where j.step = k.step and j.key = k.key and j.due_at = 'infinity'
    )
    select count(*) into done from gone;
    perform streams.ring_workers();  -- of a key that stood still, the next may be handled
    return done;
end
$$;
