-- Whether a position of epoch $1 (text) can be gone on from. Answers one row: the newest epoch, the head, and the last number
-- up to which the history of epoch $1 is this one (-1: it is not known here). Commits up to the head at which the
-- next epoch began are the same in both.
-- Called for a subscriber that comes back. Locks: none.
with
newest as (
    select epoch from streams.epoch order by began_at desc limit 1
),
head as (
    select coalesce((select number from streams.commit order by number desc limit 1), 0) as number
)
select
    (select epoch from newest) as epoch,
    (select number from head) as head,
    case
        when (select epoch::text from newest) = $1 then (select number from head)
        else coalesce(
            (
                select min(later.since_number)
                from streams.epoch given join streams.epoch later on later.began_at > given.began_at
                where given.epoch::text = $1
            ),
            -1
        )
    end as ends_at
