"""1.0: a queue's handler that isn't async, and takes its input alone."""

from motia import Stream, queue

seen = Stream("seen")
config = {"name": "RoomSeen", "triggers": [queue("room.seen")]}


def handler(input):
    seen.set("room-seen", input["id"], input)
