-- Claim up to `total` jobs of `steps` for `lease_seconds`, and answer them; they are due again when that is over.
--
-- For each step: how many it may have at most (`wanted`), how many of it may be claimed in the whole cluster (`limits`, null:
-- any number), whether a parked job stops its key (`stops`), and the key after which to begin (`after_keys`). If there are more
-- jobs than `total`, each step has its share: the first of each, the second of each, and so on. Those who call shuffle steps.
--
-- Of a key only the oldest job is claimed, and only if no other one of it is, and, where a parked one stops it, none is parked.
-- The jobs that have been due for longest say which keys to look at first. Those whose key is stopped are put aside, due at
-- infinity, until the parked one is gone (retry_parked.sql, drop_parked.sql; workers look for others now and then); those behind
-- a job that is to be tried again are due when it is. So what can't be claimed yet isn't looked at again and again.
--
-- Where so many are due that they may all be of few keys, keys are found by jumps from key to key, too, up to 256: a key with a
-- million jobs costs no more than one with two. They take turns: where the look at a step's keys ended is in a row without an
-- id, from which the next one goes on. A row without a step says that there may be more than was seen.
--
-- One claims at a time (so that keys and limits hold): the row of streams.step_turn, which a role without rights to it can't
-- lock. It is one statement without a client's part in it, so that a client that freezes keeps nobody waiting.
--
-- Locks: FOR UPDATE on streams.step_turn, waited for; on jobs, those that are locked (their handlers commit) are passed over.
-- Called by app/tidelog/store/jobs.py.
create or replace function streams.claim_jobs(
    steps text[], wanted integer[], limits integer[], stops boolean[], after_keys text[],
    total integer, lease_seconds double precision
)
returns table (
    id bigint, step text, topic text, key text, input text, trace_id text,
    claim bigint, attempts integer, unended integer
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    keys_at_once constant integer := 256;
    moment timestamptz;
    place integer;
    room integer;
    due integer;             -- of one step's keyed jobs, as far as they are counted
    has_more boolean := false;
    found_ids bigint[];      -- of one step
    ids bigint[] := '{}';    -- of all, and beside each:
    turns integer[] := '{}'; -- its number among its step's
    waiting record;          -- a key of those, and which of them are its
    head record;             -- the oldest job of a key
    at_key text;
    after_id bigint;         -- all of at_key's, or none of them: what is after both is found by the index in one step
    is_around boolean;
    looked integer;
    ended_steps text[] := '{}';
    ended_keys text[] := '{}';
begin
    perform from streams.step_turn for update;
    moment := clock_timestamp();
    for place in 1 .. cardinality(steps) loop
        room := least(wanted[place], total);
        if limits[place] is not null then
            room := least(room, limits[place] - (
                select count(*)::integer from streams.step_job c
                where c.step = steps[place] and c.is_claimed and c.due_at > moment
            ));
        end if;
        continue when room <= 0;

        found_ids := array(
            select j.id from streams.step_job j
            where j.step = steps[place] and j.key is null and j.due_at <= moment
            order by j.due_at, j.id
            limit room
            for update skip locked
        );

        due := 0;
        for waiting in
            select d.key, array_agg(d.id) as ids
            from (
                select j.id, j.key, row_number() over (order by j.due_at, j.id) as place
                from streams.step_job j
                where j.step = steps[place] and j.key is not null and j.due_at <= moment
                order by j.due_at, j.id
                limit 32 + 4 * room
            ) d
            group by d.key order by min(d.place)
        loop
            due := due + cardinality(waiting.ids);
            continue when cardinality(found_ids) >= room;
            if stops[place] and exists (
                select from streams.step_parked p where p.step = steps[place] and p.key = waiting.key
            ) then
                update streams.step_job j set due_at = 'infinity'
                where j.id in (select a.id from streams.step_job a where a.id = any (waiting.ids) for update skip locked);
                has_more := true;
                continue;
            end if;
            select j.id, j.key, j.due_at, j.is_claimed into head
            from streams.step_job j where j.step = steps[place] and j.key = waiting.key order by j.id limit 1;
            if head.due_at > moment and not head.is_claimed then  -- it is to be tried again: those behind it, then
                update streams.step_job j set due_at = head.due_at
                where j.id in (select a.id from streams.step_job a where a.id = any (waiting.ids) for update skip locked);
                has_more := true;
            elsif head.due_at <= moment and not exists (
                select from streams.step_job c
                where c.step = steps[place] and c.key = head.key and c.is_claimed and c.due_at > moment
            ) then
                found_ids := found_ids || array(
                    select j.id from streams.step_job j where j.id = head.id for update skip locked
                );
            end if;
        end loop;

        at_key := coalesce(after_keys[place], '');
        is_around := after_keys[place] is null;
        after_id := case when is_around then -1 else 9223372036854775807 end;
        looked := 0;
        while due = 32 + 4 * room and cardinality(found_ids) < room and looked < keys_at_once loop
            looked := looked + 1;
            select j.id, j.key, j.due_at into head
            from streams.step_job j
            where j.step = steps[place] and j.key is not null and (j.key, j.id) > (at_key, after_id)
            order by j.key, j.id
            limit 1;
            if head.id is null then
                exit when is_around;
                is_around := true;
                at_key := '';
                after_id := -1;
                continue;
            end if;
            exit when is_around and after_keys[place] is not null and head.key > after_keys[place];
            at_key := head.key;
            after_id := 9223372036854775807;
            continue when head.due_at > moment or head.id = any (found_ids);
            if stops[place] and exists (
                select from streams.step_parked p where p.step = steps[place] and p.key = head.key
            ) then
                update streams.step_job j set due_at = 'infinity'
                where j.id in (select a.id from streams.step_job a where a.id = head.id for update skip locked);
                has_more := true;
            elsif not exists (
                select from streams.step_job c
                where c.step = steps[place] and c.key = head.key and c.is_claimed and c.due_at > moment
            ) then
                found_ids := found_ids || array(
                    select j.id from streams.step_job j where j.id = head.id for update skip locked
                );
            end if;
        end loop;
        has_more := has_more or looked = keys_at_once and cardinality(found_ids) < room;
        if after_id > 0 and at_key is distinct from after_keys[place] then
            ended_steps := ended_steps || steps[place];
            ended_keys := ended_keys || at_key;
        end if;
        ids := ids || found_ids;
        turns := turns || array(select generate_series(1, cardinality(found_ids)));
    end loop;

    return query
    update streams.step_job j
    set is_claimed = true, claim = j.claim + 1, unended = j.unended + 1,
        due_at = moment + lease_seconds * interval '1 second'
    from (
        select u.id from unnest(ids, turns) with ordinality as u (id, turn, place)
        order by u.turn, u.place limit total
    ) chosen
    where j.id = chosen.id
    returning j.id, j.step, j.topic, j.key, j.input::text, j.trace_id, j.claim, j.attempts, j.unended;

    return query
    select null::bigint, e.step, null::text, e.key, null::text, null::text, null::bigint, null::integer, null::integer
    from unnest(ended_steps, ended_keys) as e (step, key)
    union all
    select null, null, null, null, null, null, null, null, null where has_more;
end
$$;
