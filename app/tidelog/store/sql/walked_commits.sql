-- Part of remove_old_changes.sql and remove_all_but_last.sql: the next commits that changes may be removed of.
--
-- $3 after which number, $4 how many at most, $5 their least age; $6 how long a consumer may be away and still be waited for
-- (interval, null: for ever). Never one that a durable consumer has still to read. As in remove_commits.sql one that is dated
-- ahead, by a clock that was wrong, counts as old as the next one that is old enough.
batch as materialized (
    select number, xid, at
    from streams.commit
    where number > $3::bigint and number <= $3::bigint + $4::bigint
),
old as materialized (
    select number, xid
    from batch
    where number <= (select max(number) from batch where at < clock_timestamp() - $5::interval)
      and number <= coalesce(
          (
              select min(position) from streams.consumer
              where $6::interval is null or updated_at > clock_timestamp() - $6::interval
          ),
          number
      )
)
