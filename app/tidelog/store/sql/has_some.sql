-- Part of read_commits.sql: whether commit n has rows, in {table} (change or event), of the streams $6 and groups $7, which
-- are pairs if $8. Up to 100 rows it isn't asked: they are looked at. So a million rows of others cost nothing; why the xid is
-- a range, is in touched_of_topics.sql.
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
            select
            from streams.{table} t
            where t.stream collate "C" = w.stream and t.group_id collate "C" = w.group_id
              and t.xid >= n.xid and t.xid <= n.xid and t.xid >= $9::xid8 and t.xid < $10::xid8
            order by t.stream collate "C", t.group_id collate "C", t.xid
            limit 1
        ) first
    )
end
