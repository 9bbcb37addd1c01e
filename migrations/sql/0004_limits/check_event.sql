-- BEFORE INSERT on streams.event: a role puts events only into streams whose items it may write, and none with an
-- address that no subscriber could have, or with data that is too much for them (check_json.sql). Roles that may use the
-- sequence of writes are the feed's own: for them the table of the stream is not looked up. For the others
-- streams.next_seq draws the event's place.
--
-- It runs with the rights and in the search_path of whoever inserts, and so looks up nothing there: see
-- complete_item.sql for how this is written. Not a row-level security policy, for which pg_dump would refuse a role
-- that may only read. Locks: none.
create or replace function streams.check_event() returns trigger
language plpgsql
as $$
declare
    written constant pg_catalog.text := new.data::pg_catalog.text;
begin
    if pg_catalog.octet_length(new.group_id) operator(pg_catalog.<) 1
        or pg_catalog.octet_length(new.group_id) operator(pg_catalog.>) 1024
        or pg_catalog.octet_length(new.id) operator(pg_catalog.<) 1
        or pg_catalog.octet_length(new.id) operator(pg_catalog.>) 1024
    then
        raise check_violation using
            message = pg_catalog.format('group_id and id of an event of stream %s must have 1 to 1024 bytes', new.stream),
            schema = tg_table_schema, table = tg_table_name;
    end if;
    if pg_catalog.octet_length(new.type) operator(pg_catalog.<) 1
        or pg_catalog.octet_length(new.type) operator(pg_catalog.>) 256
    then
        raise check_violation using
            message = pg_catalog.format('the type of an event of stream %s must have 1 to 256 bytes', new.stream),
            schema = tg_table_schema, table = tg_table_name, column = 'type';
    end if;
    if pg_catalog.octet_length(new.stream) operator(pg_catalog.>) 1024 then  -- of the feed's own roles; there is none such
        raise check_violation using
            message = 'the name of an event''s stream has over 1024 bytes',
            schema = tg_table_schema, table = tg_table_name, column = 'stream';
    end if;
    if pg_catalog.octet_length(written) operator(pg_catalog.>) 402
        and (
            pg_catalog.octet_length(written) operator(pg_catalog.>) 4300
            or pg_catalog.jsonb_path_exists(new.data, 'strict $.**{201}'::pg_catalog.jsonpath)
        )
        and not streams.check_json(new.data, written, 'data of an event of stream %s', new.stream)
    then
        return null;
    end if;
    if pg_catalog.has_sequence_privilege('streams.write_seq'::pg_catalog.regclass::pg_catalog.oid, 'USAGE'::pg_catalog.text) then
        new.seq := pg_catalog.nextval('streams.write_seq'::pg_catalog.regclass);
        return new;
    end if;
    -- INSERT on the table, or on the column that holds the item.
    if not exists (
        select from streams.stream s
        where s.name operator(pg_catalog.=) new.stream
          and pg_catalog.has_column_privilege(
              pg_catalog.to_regclass(pg_catalog.format('streams.%I', s.table_name))::pg_catalog.oid,
              'data'::pg_catalog.text, 'INSERT'::pg_catalog.text
          )
    ) then
        raise insufficient_privilege using
            message = pg_catalog.format('permission denied to send to stream %s', new.stream),
            hint = 'It takes the right to insert into the stream''s table.';
    end if;
    new.seq := streams.next_seq();
    return new;
end
$$;
