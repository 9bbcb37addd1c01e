-- Make the log one table again, with all that is in it. Every row is copied.
-- Locks: those of lock_log.sql.
do $$
declare
    owner text := (select r.rolname from pg_class c join pg_roles r on r.oid = c.relowner where c.oid = 'streams.change'::regclass);
    rights constant aclitem[] := (select c.relacl from pg_class c where c.oid = 'streams.change'::regclass);
    granted record;
begin
    alter table streams.change rename to change_divided;
    alter index streams.change_pkey rename to change_divided_pkey;
    create table streams.change (
        seq      bigint not null default nextval('streams.write_seq'),
        xid      xid8   not null default pg_current_xact_id(),
        stream   text   not null,
        group_id text   not null,
        id       text   not null,
        op       text   not null,
        version  bigint not null,
        data     jsonb  not null,
        primary key (xid, seq)
    );
    execute format('alter table streams.change owner to %I', owner);
    for granted in select * from aclexplode(rights) a where a.grantee <> 0 loop
        execute format('grant %s on streams.change to %s', granted.privilege_type, granted.grantee::regrole::text);
    end loop;
    insert into streams.change select seq, xid, stream, group_id, id, op, version, data from streams.change_divided;
    create index change_topic on streams.change (stream collate "C", xid, group_id collate "C");
    drop index streams.event_group;
    create index event_topic on streams.event (stream collate "C", xid, group_id collate "C");
    alter table streams.event alter column xid set default pg_current_xact_id();
end
$$;
