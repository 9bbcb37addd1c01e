-- Items of group $1 of a stream, in the order of their ids, exactly as of the head $4, although the table shows the
-- transactions $5 (xid8[]) as well, which have no number: an item that these touched is as its last change with a number
-- made it. Where that is not kept, the first of theirs tells what was before it; an update doesn't, and `is_known` is false. So it is
-- of what was erased: until the deletion has its number, the item would be there with nothing in it.
--
-- $2 only those after this id (null: all), $3 rows at most. {table}, {collation} of its keys (so that its index is used),
-- {only} is empty, or narrows it to the item $6. The second statement of a transaction that begins with read_place.sql.
-- Locks: none.
with
touched as materialized (
    select distinct c.id {collation} as id
    from streams._{table}_log c
    where c.xid = any ($5::xid8[]) and c.group_id = $1
),
before as (
    select
        d.id, o.version, o.data,
        coalesce(o.op <> 'delete', false) as is_there,
        coalesce(o.is_kept or o.op <> 'update', true) and e.erased_at is null as is_known
    from touched d
    left join lateral (
        (select true as is_kept, c.op, c.version, c.data, c.xid, c.seq
         from streams._{table}_log c
         where c.group_id = $1 and c.id = d.id collate "C" and c.position <= $4
         order by c.seq desc limit 1)
        union all
        (select false, case c.op when 'create' then 'delete' when 'delete' then 'present' else c.op end, c.version, c.data,
            c.xid, c.seq
         from streams._{table}_log c
         where c.xid = any ($5::xid8[]) and c.group_id = $1 and c.id = d.id collate "C"
         order by c.seq limit 1)
        limit 1
    ) o on true
    left join streams.change e on e.xid = o.xid and e.seq = o.seq
)
select id, version, data, is_known, false as is_erased
from (
    (select t.id {collation} as id, t.version, t.data, true as is_known
     from streams.{table} t
     where t.group_id = $1 and ($2::text is null or t.id {collation} > $2) {only}
       and not exists (select from touched d where d.id = t.id {collation})
     order by t.id {collation}
     limit $3)
    union all
    select t.id, t.version, t.data, t.is_known
    from before t
    where t.is_there and ($2::text is null or t.id > $2) {only}
) t
order by id
limit $3
