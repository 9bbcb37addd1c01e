def can_access(subscription, auth):
    return auth is not None and subscription["groupId"] == auth["subject"]


config = {"name": "plainSecret", "schema": {"type": "object"}, "can_access": can_access}
