from sqlalchemy import text

config = {
    "type": "event",
    "name": "Kept",
    "subscribes": ["kept"],
    "emits": [],
    "infrastructure": {"queue": {"type": "fifo"}},
}
EFFECT = text("insert into effects (kind, number) values ('kept', :number)")


async def handler(input, context):
    await context.db.execute(EFFECT, {"number": input["number"]})
