-- The steps that jobs wait for and that are none of $1 (text[]), at most 10, by name. The indexes of waiting jobs are walked from
-- step to step, so that it costs the steps, not the jobs. Called at the start. Locks: none.
with recursive waiting (step) as (
    select ''::text collate "C"
    union all
    select least(
        (select j.step from streams.step_job j where j.key is null and j.step > before.step order by j.step limit 1),
        (select j.step from streams.step_job j where j.key is not null and j.step > before.step order by j.step limit 1)
    )
    from waiting before
    where before.step is not null
)
select waiting.step
from waiting
where waiting.step <> '' and waiting.step <> all ($1::text[])
order by waiting.step
limit 10
