-- What the table of a stream lacks so that its items can expire after `ttl_seconds` (null: never, by themselves); null if
-- nothing. Asked at every start, and by streams.make_expiring. Locks: none.
--
-- A column of that name that somebody else made is not taken for ours, as items would be deleted by it: ours has a comment.
create or replace function streams.lacks_expiry(stream_table text, ttl_seconds double precision) returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    relation constant oid := to_regclass(format('streams.%I', stream_table));
    wanted constant text := case
        when ttl_seconds is null then ''
        else format('(clock_timestamp() + %L::interval)', ttl_seconds * interval '1 second')
    end;
    stored text;
    remark text;
begin
    select coalesce(pg_get_expr(d.adbin, d.adrelid), ''), col_description(a.attrelid, a.attnum) into stored, remark
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = relation and a.attname = 'expires_at' and not a.attisdropped;
    if not found then
        return format('streams.%I has no column expires_at', stream_table);
    end if;
    if remark is distinct from 'When Tidelog deletes the item; null: never' then
        return format('the column expires_at of streams.%I is somebody''s own', stream_table);
    end if;
    if stored <> wanted then
        return format('items of streams.%I are to live for another time', stream_table);
    end if;
    if not exists (
        select from pg_index i
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
        where i.indrelid = relation and a.attname = 'expires_at' and i.indpred is not null and i.indisvalid
    ) then
        return format('streams.%I has no index on expires_at', stream_table);
    end if;
    return null;
end
$$;
