-- The floor: the last number that retention has removed (0: none). Whoever stands at it or after can go on.
--
-- It is min(number) - 1 of streams.commit. But min() walks over all that was removed and not yet vacuumed,
-- which an old transaction somewhere may prevent for hours (250 ms with a million, where halving takes 0.2). Numbers
-- are dense and removed from the lowest, so the floor is found by halving, in about twenty lookups.
--
-- Called for every subscriber that resumes; consume.sql has it inside. Locks: none.
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
select max(removed) as floor from search
