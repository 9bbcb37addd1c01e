-- Part of read_commits.sql: whether commit n has rows, in {table} (change or event), of the streams $6 and groups $7, which
-- are pairs if $8. Up to 100 rows it isn't asked: they are looked at. So a million rows of others cost nothing; why it is put
-- so, is in touched_groups.sql.
case
    when $6::text[] is null or $7::text[] is null then true
    when not exists (
        select from streams.{table} t where t.xid = n.xid and t.xid >= $9::xid8 and t.xid < $10::xid8 offset 100
    ) then true
    else exists (
        select
        from (
            select * from unnest($6::text[], $7::text[]) where $8
            union all
            select * from unnest($6) as s (stream) cross join unnest($7) as g (group_id) where not $8
        ) w (stream, group_id)
        cross join lateral (
            select t.stream, t.xid, t.group_id
            from streams.{table} t
            where (t.stream collate "C", t.xid, t.group_id collate "C") >= (w.stream, n.xid, w.group_id)
              and t.xid >= $9::xid8 and t.xid < $10::xid8
            order by t.stream collate "C", t.xid, t.group_id collate "C"
            limit 1
        ) first
        where first.stream = w.stream and first.xid = n.xid and first.group_id = w.group_id
    )
end
