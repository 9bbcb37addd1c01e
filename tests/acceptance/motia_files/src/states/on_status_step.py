"""1.0: changes of the state that a condition lets through. It says what they were, and what they are."""

from motia import StateTriggerInput, Stream, logger, state

seen = Stream("seen")
config = {
    "name": "OnStatus",
    "triggers": [state(condition=lambda input, ctx: input.group_id == "users")],
    "flows": ["states"],
}


async def handler(input: StateTriggerInput) -> None:
    logger.info("a user's state changed", {"user": input.item_id})
    old = input.old_value["status"] if input.old_value else None
    new = input.new_value["status"] if input.new_value else None
    await seen.set("on-status", f"{input.item_id}: {old} to {new}", {"type": input["type"]})
