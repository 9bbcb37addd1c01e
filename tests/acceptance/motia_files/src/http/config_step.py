"""1.0: StepConfig, schemas as classes, and an answer as a dict."""

from motia import ApiRequest, FlowContext, QueryParam, StepConfig, http
from pydantic import BaseModel


class Room(BaseModel):
    id: str
    topic: str = "any"


config = StepConfig(
    name="MakeRoom",
    description="Makes a room",
    triggers=[
        http(
            "POST",
            "/v1/rooms",
            body_schema=Room,
            response_schema={201: Room},
            query_params=[QueryParam(name="dry", description="not really")],
        )
    ],
    enqueues=["room.made"],
    virtual_enqueues=["room.shown"],
    flows=["v1"],
)


async def handler(request: ApiRequest[dict], ctx: FlowContext) -> dict:
    room = request.body
    await ctx.enqueue({"topic": "room.made", "data": room})
    return {"status": 201, "body": room}
