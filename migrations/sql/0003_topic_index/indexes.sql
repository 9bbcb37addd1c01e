-- Which groups a transaction wrote to, and which of its rows are a group's: so that the readers find out about a commit of a
-- million rows without reading it.
--
-- A transaction's entries are beside each other, so writing is an append at the end of each stream's; those of one group
-- share an entry (deduplication), so a million rows in a group take a few bytes each. "C": a C library upgrade must not
-- corrupt it, and equality is the same.
--
-- The stream comes first, so that nothing that asks by xid alone is ever planned by this index. With the xid first, fresh
-- statistics had the planner take it in place of the key: the last seq of a million rows was then found in 3 s.
--
-- Made anew it keeps writers waiting: about a second for each million rows of the log.
create index change_topic on streams.change (stream collate "C", xid, group_id collate "C");

-- Events that could have no subscriber: their keys are longer than any group's, and may not fit an index entry.
delete from streams.event where octet_length(stream) > 1024 or octet_length(group_id) > 1024;

create index event_topic on streams.event (stream collate "C", xid, group_id collate "C");
