-- Two positions of a stream, by numbers or by times, of which the first is not the later one; one row. Raises as
-- streams.position_of.
-- Called by a stream's _diff, once in each query. Locks: none.
create or replace function streams.span_of(
    "from" bigint, "to" bigint, stream text, out begins bigint, out ends bigint
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    select b.number, e.number into begins, ends from streams.position_of($1, $3) b cross join streams.position_of($2, $3) e;
    if begins > ends then
        raise invalid_parameter_value using
            message = format('position %s is behind position %s', begins, ends), constraint = 'position_invalid',
            hint = 'The earlier one comes first.';
    end if;
end
$$;

create or replace function streams.span_of(
    "from" timestamptz, "to" timestamptz, stream text, out begins bigint, out ends bigint
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    select b.number, e.number into begins, ends from streams.position_of($1, $3) b cross join streams.position_of($2, $3) e;
    if $1 > $2 then
        raise invalid_parameter_value using
            message = format('%s is later than %s', $1, $2), constraint = 'position_invalid',
            hint = 'The earlier one comes first.';
    end if;
end
$$;
