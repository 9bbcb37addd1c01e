"""1.0: a stream's config as a dict."""

from motia import Stream

config = {"name": "desk", "schema": {"type": "object"}, "baseConfig": {"storageType": "default"}}

desks: Stream[dict] = Stream("desk")
