from pydantic import BaseModel, Field


class Strict(BaseModel, extra="forbid"):
    name: str = Field(min_length=1)
    count: int = Field(ge=0)
    tags: list[str] = []


config = {"name": "strict", "schema": Strict}
