-- Part of remove_old_changes.sql and remove_all_but_last.sql: raises the floor of stream $1, in the transaction that removes. Two
-- processes may be at it for a moment, when the one is taken for dead: the floor is raised by both, and the walk goes on
-- from where it was said to be only if that was so. Answers one row: how many changes went, up to where all is looked
-- through, and whether there may be more to look through at once.
raised as (
    update streams.stream_floor f
    set number = greatest(f.number, (select max(number) from gone)),
        walked = case when f.rule = $2 and f.walked <= $3 then (select max(number) from old) else f.walked end
    where f.stream = $1 and exists (select from old)
    returning f.walked
)
select
    (select count(*) from gone) as removed,
    coalesce((select walked from raised), $3) as walked,
    (select count(*) from old) = $4 as more
