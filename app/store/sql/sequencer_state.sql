-- Where numbering goes on: the last commit and what its sequencer saw. No row: nothing was numbered yet.
select number, at, snapshot::text as snapshot
from streams.commit
order by number desc
limit 1
