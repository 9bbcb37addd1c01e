-- Where the log ends, as seen by one who was in the history of epoch $1 (text, or null). Answers one row: the last number given
-- out, its time, the newest epoch, and `shared`: the last number up to which the history of epoch $1 is this one (-1: it is not
-- known here). Commits up to the head at which the next epoch began are the same in both.
-- Called by the readers, and for a subscriber that comes back. Locks: none.
with
newest as (
    select epoch from streams.epoch order by began_at desc limit 1
),
last as (
    select coalesce(max(number), 0) as number, coalesce((extract(epoch from max(at)) * 1000)::float8, 0) as at_ms
    from (select number, at from streams.commit order by number desc limit 1) as one
)
select
    last.number,
    last.at_ms,
    (select epoch from newest) as epoch,
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
