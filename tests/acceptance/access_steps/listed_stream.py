def can_access(subscription, auth):
    # As somebody may write it who never thought of a subscription without a group.
    return subscription["groupId"] == (auth or {}).get("subject")


def can_list(subscription, auth):
    return auth is not None and auth["subject"] == "ada"


config = {"name": "listed", "schema": {"type": "object"}, "canAccess": can_access, "canList": can_list}
