"""1.0: a stream's config as an object, and the stream itself, which steps import."""

from motia import Stream, StreamConfig

config = StreamConfig(
    name="room",
    description="Rooms",
    schema={"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]},
    base_config={"storageType": "default"},
)

rooms = Stream(config=config)
