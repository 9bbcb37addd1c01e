-- The last number given out, its time, and the epoch that it belongs to.
select
    coalesce(last.number, 0) as number,
    coalesce((extract(epoch from last.at) * 1000)::float8, 0) as at_ms,
    (select e.epoch from streams.epoch e order by e.began_at desc limit 1) as epoch
from (select) as one
left join lateral (select number, at from streams.commit order by number desc limit 1) as last on true
