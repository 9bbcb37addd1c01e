"""Delivers commits: to those who are live, at once; to those on their way, to be kept.

Whoever can't be served, for a fault of ours, is sent away: the others are served, and the feed goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from tidelog.feed.cork import Cork, UnflushedError
from tidelog.feed.failures import UnservedError
from tidelog.feed.fan_out import Touched, deliver
from tidelog.feed.lobby import Lobby
from tidelog.feed.progress import Progress
from tidelog.feed.registry import Registry
from tidelog.feed.subscription import CommitHead, net_changes_of, prepare
from tidelog.feed.turns import in_slices
from tidelog.model.change import Commit, Topic


class Publisher:
    """Commits come in the order of their numbers, each once; `commits_total` and `deliveries_total` only grow."""

    def __init__(self, progress: Progress, registry: Registry, lobby: Lobby, cork: Cork) -> None:
        self.commits_total = self.deliveries_total = 0
        self._progress = progress
        self._registry = registry
        self._lobby = lobby
        self._cork = cork

    async def prepare(self, commit: Commit) -> None:
        """Do of a large commit's delivery what can be done before it, with everybody else's turns in between."""
        if commit.truncated:
            return
        head = CommitHead(commit.number, commit.at_ms, commit.xid)
        for topic, part in commit.groups.items():
            channel = self._registry.channel(topic)
            if channel is not None:
                with contextlib.suppress(Exception):  # whom it concerns is found out when it is delivered
                    await in_slices(prepare(head, topic, part, list(channel.audiences)))

    def publish(self, commits: Sequence[Commit]) -> None:
        """Deliver the next commits."""
        try:
            with self._cork.held() if _meet_again(commits) else contextlib.nullcontext():
                for commit in commits:
                    try:
                        self._publish(commit)
                    except Exception as error:  # contained nowhere else, so it isn't known who has been served
                        self._lobby.fail_topics(commit.groups, error)
                    self._progress.advance(commit.number, commit.at_ms)
        except UnflushedError as error:
            unflushed = error.unflushed
            self._lobby.fail(
                {one: unflushed[one.outlet] for one in self._registry.subscribers if one.outlet in unflushed}
            )
        self.commits_total += len(commits)

    def _publish(self, commit: Commit) -> None:
        if self._registry.full:
            self._lobby.take_in_full()
        if commit.number != self._progress.position + 1:
            # This process slept for so long that commits were removed before it read them.
            self._lobby.begin_topics_again(list(self._registry.topics), "too_old")
        elif commit.forgotten:  # or that changes of some streams were
            topics = [topic for topic in self._registry.topics if topic.stream in commit.forgotten]
            self._lobby.begin_topics_again(topics, "too_old")
        touched = [one for topic in commit.groups if (one := self._touch(commit, topic)) is not None]
        if touched:
            try:
                self.deliveries_total += deliver(CommitHead(commit.number, commit.at_ms, commit.xid), touched)
            except UnservedError as error:
                self.deliveries_total += error.delivered
                self._lobby.fail(error.unserved)

    def _touch(self, commit: Commit, topic: Topic) -> Touched | None:
        """Hand a group's part of a commit to those on their way; returns it if somebody is live."""
        channel, part = self._registry.channel(topic), commit.groups[topic]
        if channel is None:
            return None
        if commit.truncated or topic in commit.unreadable:
            self._lobby.begin_topics_again([topic], "too_large" if commit.truncated else "unreadable")
            return None
        try:
            changes = net_changes_of(part)
            for follower in channel.followers:
                try:
                    follower.keep(commit, topic, part, changes)
                except Exception as error:
                    self._lobby.overflow(follower, error)
        except Exception as error:
            self._lobby.fail_topics([topic], error)
            return None
        return Touched(topic, channel, part, changes) if channel.live else None


def _meet_again(commits: Sequence[Commit]) -> bool:
    """Whether two of them touch one group: its sockets then get both in one write. Else gathering costs for nothing."""
    seen: set[Topic] = set()
    for commit in commits:
        if not seen.isdisjoint(commit.groups):
            return True
        seen.update(commit.groups)
    return False
