from sqlalchemy import text

config = {"type": "event", "name": "Plain", "subscribes": ["plain"], "emits": []}
EFFECT = text("insert into effects (kind, number) values ('plain', :number)")


async def handler(input, context):
    await context.db.execute(EFFECT, {"number": input["number"]})
