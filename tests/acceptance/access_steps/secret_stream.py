from rules import is_owner

config = {"name": "secret", "schema": {"type": "object"}, "canAccess": is_owner}
