-- Where removal of stream $1's changes by rule $2 (text) goes on: all commits up to the number that is answered were looked
-- through. By another rule than the last time all are.
--
-- Called by the housekeeper in each round; writes only where something is new. Locks: the stream's row, for a moment.
with begun as (
    insert into streams.stream_floor as f (stream, rule) values ($1, $2)
    on conflict (stream) do update set rule = excluded.rule, walked = 0 where f.rule <> excluded.rule
    returning walked
)
select coalesce((select walked from begun), (select f.walked from streams.stream_floor f where f.stream = $1), 0) as walked
