"""Where those stand who come back with a position: who may go on from it, and who has to begin again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidelog.fair import Claim
from tidelog.feed.subscription import PositionSubscription
from tidelog.model.position import Position, ResetReason
from tidelog.store.archive import Archive


@dataclass(frozen=True, slots=True)
class Checked:
    """`refused` have to begin again; the others go on, when the feed has reached `head`."""

    refused: Mapping[PositionSubscription, ResetReason]
    head: int


async def check_positions(archive: Archive, since: Mapping[PositionSubscription, Position]) -> Checked:
    """Look in the log for these, of which there is one at least. Raises what the archive raises."""
    client = next(iter(since)).subscriber.client  # all are of one connection
    epochs = dict.fromkeys(position.epoch for position in since.values())
    standings = {epoch: await archive.standing(epoch, Claim(client)) for epoch in epochs}
    refused: dict[PositionSubscription, ResetReason] = {}
    for subscription, position in since.items():
        reason = standings[position.epoch].refusal(position.number, subscription.topic.stream)
        if reason is not None:
            refused[subscription] = reason
    return Checked(refused, max(standing.head for standing in standings.values()))
