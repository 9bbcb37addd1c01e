from sqlalchemy import text

config = {"type": "api", "name": "PutOut", "method": "POST", "path": "/put-out/:group", "emits": []}


async def handler(req, context):
    group = req["pathParams"]["group"]
    await context.db.execute(text("delete from member where grp = :group"), {"group": group})
    await context.recheck(group=group)
    return {"status": 200, "body": {}}
