-- Where the log ends, as seen by one who was in the history of epoch $1 (text, or null). Answers one row: the last number given
-- out, its time, the newest epoch, when that began, and `shared`: the last number up to which the history of epoch $1 is this one (-1: it is not
-- known here). Commits up to the head at which the next epoch began are the same in both.
-- The time is never before that beginning: clients drop what is older than what another history has told them. (One that
-- began while the clock was ahead counts only as far as the log may be ahead of it: see number_commits.sql.)
-- Called by the readers, and for a subscriber that comes back. Locks: none.
with
newest as (
    select
        epoch,
        (extract(epoch from least(began_at, clock_timestamp() + interval '30 seconds')) * 1000)::float8 as began_at_ms
    from streams.epoch
    order by began_at desc
    limit 1
),
last as (
    select coalesce(max(number), 0) as number, coalesce((extract(epoch from max(at)) * 1000)::float8, 0) as at_ms
    from (select number, at from streams.commit order by number desc limit 1) as one
)
select
    last.number,
    greatest(last.at_ms, (select began_at_ms from newest)) as at_ms,
    (select epoch from newest) as epoch,
    (select began_at_ms from newest) as began_at_ms,
    case
        when (select epoch::text from newest) = $1 then last.number
        else coalesce(
            (
                select min(later.since_number)
                from streams.epoch given join streams.epoch later on later.began_at > given.began_at
                where given.epoch::text = $1
            ),
            -1
        )
    end as shared
from last
