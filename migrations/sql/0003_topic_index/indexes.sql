-- Which topics a transaction wrote to, and which of its rows are of a topic: so that the readers find out about a commit of
-- a million rows without reading it.
--
-- A transaction's entries are beside each other, so writing is an append at the right end of the index; those of one topic
-- share an entry (deduplication), so a million rows in a group take a few bytes each. "C": a C library upgrade must not
-- corrupt it, and equality is the same.
--
-- Made anew it keeps writers waiting: about a second for each million rows of the log.
create index change_topic on streams.change (xid, stream collate "C", group_id collate "C");

-- Events that could have no subscriber: their keys are longer than any group's, and may not fit an index entry.
delete from streams.event where octet_length(stream) > 1024 or octet_length(group_id) > 1024;

create index event_topic on streams.event (xid, stream collate "C", group_id collate "C");
