-- Items of group $1 of stream $5, in the order of their ids, as of position $4. $2 only those after this id (null: all), $3 rows
-- at most. {table}, {collation} as in read_items_now.sql; {only} is empty, or narrows it to the item $6. Locks: none.
--
-- Of an item that was erased since, its id is left. If there is such a one in the page, the group's log is read once more, for
-- what was erased: the change that an item is told by may be among it. (Looked up for each item, all of the log would be read
-- for each, in a group whose items have nothing but ids.)
with
page as materialized (
    select t.id {collation} as id, t.version, t.data, t.position
    from streams.{table}_as_of($4::bigint) t
    where t.group_id = $1 and ($2::text is null or t.id {collation} > $2) {only}
    order by t.id {collation}
    limit $3
),
erased as materialized (
    select c.id, n.number as position
    from streams.change c join streams.commit n on n.xid = c.xid
    where c.stream = $5 and c.group_id = $1 and c.erased_at is not null
      and exists (select from page p where p.data = jsonb_build_object('id', p.id))
)
select p.id, p.version, case when not e.is_erased then p.data end as data, true as is_known, e.is_erased
from page p
cross join lateral (
    select exists (
        select from erased e
        where e.id = p.id collate "C" and (e.position = p.position or p.position is null and e.position > $4)
    ) as is_erased
) e
order by p.id
