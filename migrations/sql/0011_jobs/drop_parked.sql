-- Forget parked jobs: one, by its id; a step's, by its name. Answers how many there were. Called by hand and by
-- `tidelog jobs`. Locks: those of its deletes.
create function streams.drop_parked(parked_id bigint default null, step_name text default null) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    done bigint;
begin
    if parked_id is null and step_name is null then
        raise exception using errcode = '22004', message = 'which? give parked_id => ... or step_name => ...';
    end if;
    delete from streams.step_parked p
    where (parked_id is null or p.id = parked_id) and (step_name is null or p.step = step_name);
    get diagnostics done = row_count;
    perform streams.ring_workers();  -- of a key that stood still, the next may be handled
    return done;
end
$$;
