-- The floor: the lowest position that reads can start from. 0 when nothing was removed from the log, and otherwise the last
-- number that was (min(number) - 1 of streams.commit, found by halving: app/tidelog/store/sql/floor.sql says why).
--
-- It runs with its owner's rights, since those who read history can't read streams.commit. It tells nothing but the number.
-- Called by people, and by streams.position_of. Locks: none.
create or replace function streams.floor() returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
with recursive
search (removed, kept) as (
    select 0::bigint, coalesce((select number from streams.commit order by number desc limit 1), 1)
    union all
    select
        case when is_kept then removed else middle end,
        case when is_kept then middle else kept end
    from (
        select removed, kept, middle, exists (select from streams.commit where number = middle) as is_kept
        from (select removed, kept, (removed + kept) / 2 as middle from search where kept - removed > 1) half
    ) probe
)
select max(removed) from search
$$;
