-- Refuse an item, or an event's data, that is too much for those who have to read it; true if it is not. `written` is
-- `data` as text, as which it goes to subscribers. `subject` is a format with one place, for `name`.
--
-- Too large is what is over 2 MiB, which is twice what steps take by default (Postgres writes spaces that they don't
-- count), or over the setting tidelog.item_size_max_bytes of the database, the role or the session. A server gives its
-- own to its steps' sessions. Whoever may write may set it, too; but not to more than 64 MiB, which a reader can hold,
-- and a message of Motia's dialect. The text is counted, as what is stored says little of it: a number of 12 bytes may
-- be a text of 131 kB (1e131071), and a compressed text is up to 250 times as long.
--
-- Too deep, or with too long a number, is what a request's body may not be either, since JSON readers refuse it: Python's
-- stops at 4,300 digits, others at some hundred levels. Digits are looked for at one place in 2150: of 4301 in a row two
-- are such places. The exact look costs more than the write itself, and is taken only where there are digits at one of
-- them, and some way behind it.
--
-- The triggers ask for what has more than 4300 bytes, the least that can be set, or 202 levels, which take 404 bytes. So
-- a usual write costs no more than making the text, 1 µs.
--
-- It runs in the writer's search_path, and so nothing may be looked up there: see complete_item.sql for how this is
-- written. Locks: none. Called by record_change and check_event.
create function streams.check_json(data jsonb, written text, subject text, name text) returns boolean
language plpgsql
as $$
declare
    size constant integer := pg_catalog.octet_length(written);
    size_max integer := 2097152;
    given constant pg_catalog.text := pg_catalog.current_setting('tidelog.item_size_max_bytes'::pg_catalog.text, true);
    bytes pg_catalog.bytea;
begin
    if given operator(pg_catalog.~) '^[0-9]{1,9}$'::pg_catalog.text then
        size_max := given::pg_catalog.int4;
        if size_max operator(pg_catalog.>) 67108864 then
            size_max := 67108864;
        elsif size_max operator(pg_catalog.<) 4300 then
            size_max := 4300;
        end if;
    end if;
    if size operator(pg_catalog.>) size_max then
        raise check_violation using
            message = pg_catalog.format(
                pg_catalog.concat(subject, ': %s bytes as JSON text; at most %s are taken'), name, size, size_max
            ),
            hint = 'The limit is the setting tidelog.item_size_max_bytes (ALTER DATABASE ... SET), from 4300 to 67108864.',
            column = 'data', constraint = 'tidelog_item_size';
    end if;
    if pg_catalog.jsonb_path_exists(
        data, 'strict $.**{201} ? (@.type() == "object" || @.type() == "array")'::pg_catalog.jsonpath
    ) then
        raise check_violation using
            message = pg_catalog.format(pg_catalog.concat(subject, ': nested deeper than 200 levels'), name),
            column = 'data', constraint = 'tidelog_item_depth';
    end if;
    if size operator(pg_catalog.<=) 4300 then
        return true;
    end if;
    bytes := pg_catalog.convert_to(written, 'UTF8'::pg_catalog.name);
    for place in 2149 .. size operator(pg_catalog.-) 2152 by 2150 loop
        continue when pg_catalog.get_byte(bytes, place) operator(pg_catalog.>) 57  -- 9
            or pg_catalog.get_byte(bytes, place) operator(pg_catalog.<) 48  -- 0
            or pg_catalog.get_byte(bytes, place operator(pg_catalog.+) 1) operator(pg_catalog.>) 57
            or pg_catalog.get_byte(bytes, place operator(pg_catalog.+) 1) operator(pg_catalog.<) 48
            or pg_catalog.get_byte(bytes, place operator(pg_catalog.+) 100) operator(pg_catalog.>) 57
            or pg_catalog.get_byte(bytes, place operator(pg_catalog.+) 100) operator(pg_catalog.<) 48
            or pg_catalog.get_byte(bytes, place operator(pg_catalog.+) 2150) operator(pg_catalog.>) 57
            or pg_catalog.get_byte(bytes, place operator(pg_catalog.+) 2150) operator(pg_catalog.<) 48;
        if pg_catalog.jsonb_path_exists(
            data,
            'strict $.** ? (@.type() == "number" && (@ >= 1e4300 || @ <= -1e4300))'::pg_catalog.jsonpath
        ) then
            raise check_violation using
                message = pg_catalog.format(pg_catalog.concat(subject, ': a number of more than 4300 digits'), name),
                column = 'data', constraint = 'tidelog_item_digits';
        end if;
        return true;
    end loop;
    return true;
end
$$;
