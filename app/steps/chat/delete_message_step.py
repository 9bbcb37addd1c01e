"""Delete a message. Its history stays: see streams.chat_message_history."""

config = {
    "type": "api",
    "name": "DeleteMessage",
    "description": "Delete a message",
    "method": "DELETE",
    "path": "/chat/:room/messages/:id",
    "emits": [],
    "flows": ["chat"],
}


async def handler(req, context):
    room, id = req["pathParams"]["room"], req["pathParams"]["id"]
    message = await context.streams.chatMessage.delete(room, id)
    if message is None:
        return {"status": 404, "body": {"error": {"code": "message_unknown", "message": f"no message {id}"}}}
    return {"status": 200, "body": message}
