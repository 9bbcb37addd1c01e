-- Which groups a transaction wrote to, and which of its rows are a group's: so that the readers find out about a commit of a
-- million rows without reading it.
--
-- A transaction's entries are beside each other, so writing is an append at the end of each stream's; those of one group
-- share an entry (deduplication), so a million rows in a group take a few bytes each. "C": a C library upgrade must not
-- corrupt it, and equality is the same.
--
-- The stream comes first, as what asks by xid alone is for the key: with the xid first, statistics had the planner take this
-- index in its place (see enable_sort in app/tidelog/store/log.py for Postgres 18, which can skip the first column).
--
-- Made anew it keeps writers waiting: about a second for each million rows of the log.
create index change_topic on streams.change (stream collate "C", xid, group_id collate "C");

-- Events that could have no subscriber: their keys are longer than any group's, and may not fit an index entry.
delete from streams.event where octet_length(stream) > 1024 or octet_length(group_id) > 1024;

create index event_topic on streams.event (stream collate "C", xid, group_id collate "C");
