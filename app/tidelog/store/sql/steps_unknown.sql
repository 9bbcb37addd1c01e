-- The steps that jobs wait for and that are none of $1 (text[]), at most 10, by name. Each index of waiting jobs is walked from
-- step to step, so that it costs the steps, not the jobs. Called when workers start. Locks: none.
with recursive
any_order (step) as (
    (select j.step from streams.step_job j where j.key is null order by j.step limit 1)
    union all
    select (select j.step from streams.step_job j where j.key is null and j.step > before.step order by j.step limit 1)
    from any_order before
    where before.step is not null
),
in_order (step) as (
    (select j.step from streams.step_job j where j.key is not null order by j.step limit 1)
    union all
    select (select j.step from streams.step_job j where j.key is not null and j.step > before.step order by j.step limit 1)
    from in_order before
    where before.step is not null
)
select waiting.step
from (select step from any_order union select step from in_order) waiting
where waiting.step <> all ($1::text[])
order by waiting.step
limit 10
