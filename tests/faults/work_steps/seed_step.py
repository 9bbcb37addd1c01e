"""Each seed's transaction has its own effect, and emits five events of each kind."""

from sqlalchemy import text

config = {"type": "event", "name": "Seed", "subscribes": ["seed"], "emits": ["plain", "kept"]}
EFFECT = text("insert into effects (kind, number) values ('seed', :number)")


async def handler(input, context):
    seed = input["seed"]
    await context.db.execute(EFFECT, {"number": seed})
    for number in range(seed * 5, seed * 5 + 5):
        await context.emit({"topic": "plain", "data": {"number": number}})
        await context.emit({"topic": "kept", "data": {"number": number}, "messageGroupId": f"key-{seed % 7}"})
