-- Make the log a partitioned table, whose first partition is the table that it was: no row is moved, but for those of a log
-- that was adopted before there were eras. Its index by group takes the place of that by topic: two seconds for each million
-- rows, and each row is looked at once.
--
-- Keys are compared by their bytes (collate "C"): a C library upgrade must not corrupt an index.
-- Locks: those of lock_log.sql.
do $$
declare
    owner text := (select r.rolname from pg_class c join pg_roles r on r.oid = c.relowner where c.oid = 'streams.change'::regclass);
    rights constant aclitem[] := (select c.relacl from pg_class c where c.oid = 'streams.change'::regclass);
    is_empty constant boolean := not exists (select from streams.change);
    -- Where the old table ends: what is written from now on has a later xid.
    place constant xid8 := ((pg_current_xact_id()::text::bigint + 1)::text)::xid8;
    granted record;
begin
    alter table streams.change rename to "change~0";
    alter index streams.change_pkey rename to "change~0_pkey";
    drop index streams.change_topic, streams.event_topic;
    alter table streams."change~0"
        add column by_role text,
        add column origin text,
        add column erased_at timestamptz,
        alter column stream type text collate "C",
        alter column group_id type text collate "C",
        alter column id type text collate "C",
        alter column by_role set default session_user::text,
        alter column origin set default nullif(current_setting('tidelog.origin', true), ''),
        alter column xid set default streams.transaction_id();
    alter table streams.event alter column xid set default streams.transaction_id();

    create table streams.change (
        like streams."change~0" including defaults
    ) partition by range (xid);
    execute format('alter table streams.change owner to %I', owner);
    for granted in select * from aclexplode(rights) a where a.grantee <> 0 loop
        execute format('grant %s on streams.change to %s%s', granted.privilege_type, granted.grantee::regrole::text,
            case when granted.is_grantable then ' with grant option' else '' end);
    end loop;

    if exists (select from streams."change~0" where xid >= '9223372036854775808'::xid8) then
        create table streams."change~9223372036854775808" (like streams."change~0" including defaults including storage);
        execute format('alter table streams."change~9223372036854775808" owner to %I', owner);
        with moved as (delete from streams."change~0" where xid >= '9223372036854775808'::xid8 returning *)
        insert into streams."change~9223372036854775808" select * from moved;
        alter table streams.change attach partition streams."change~9223372036854775808"
            for values from ('9223372036854775808') to (maxvalue);
    else
        perform streams.make_partition('9223372036854775808', '18446744073709551615');
    end if;
    execute format('alter table streams.change attach partition streams."change~0" for values from (''0'') to (%L)', place);

    perform streams.make_partition(place, '9223372036854775808');
    perform streams.lay_out(place);

    alter table streams.change add constraint change_pkey primary key (xid, seq);
    create index change_group on streams.change (stream, group_id, xid);
    create index event_group on streams.event (stream collate "C", group_id collate "C", xid);
end
$$;
