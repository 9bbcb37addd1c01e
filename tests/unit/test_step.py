"""What an API step's config may say."""

from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from tidelog.errors import DeclarationError
from tidelog.model.step import Step
from tidelog.model.trigger import METHODS, HttpTrigger, parse_path

CONFIG = {"type": "api", "name": "Post", "method": "POST", "path": "/chat/:room"}


class Message(BaseModel):
    text: str


async def handler(req: Any, context: Any) -> Any:
    return {"status": 200}


def read(**config: Any) -> Step:
    """The step of CONFIG, changed."""
    return Step.from_config({**CONFIG, **config}, handler)


def read_http(**config: Any) -> HttpTrigger:
    """Its one trigger."""
    (http,) = read(**config).triggers
    return http


def refusal(**config: Any) -> str:
    """Why a changed CONFIG is refused."""
    with pytest.raises(DeclarationError) as refused:
        read(**config)
    return str(refused.value)


def test_a_step_needs_no_more_than_four_keys() -> None:
    """Name, method and path are enough; a step runs once, in a transaction."""
    step = Step.from_config(CONFIG, handler)
    assert step.triggers == (HttpTrigger(method="POST", path="/chat/:room"),)
    assert (step.name, step.transaction, step.retries) == ("Post", True, 0)


def test_all_of_motias_keys_are_accepted() -> None:
    """What Motia declares and Tidelog has no use for does no harm; None is as good as absent."""
    step = read(
        description="Posts",
        flows=["chat"],
        emits=["posted", {"topic": "b", "label": "B", "conditional": True}],
        virtualEmits=["x"],
        virtualSubscribes=["y"],
        includeFiles=["z"],
        queryParams=[{"name": "q", "description": "Q"}],
        infrastructure={"handler": {"ram": 1024}},
        middleware=[],
        bodySchema=None,
        responseSchema=None,
    )
    assert (step.description, step.flows) == ("Posts", ("chat",))


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ({}, None),
        ({"timeoutSeconds": None}, None),
        ({"timeoutSeconds": 0.5}, 0.5),
        ({"timeoutSeconds": 0}, 0),
        ({"infrastructure": {"handler": {"ram": 1024, "timeout": 120}}}, 120),
        ({"infrastructure": {"handler": {"timeout": 120}}, "timeoutSeconds": 5}, 5),
        ({"infrastructure": {"handler": None}}, None),
        ({"infrastructure": []}, None),
    ],
)
def test_a_steps_time_limit_is_its_own_key_or_motias(config: dict[str, Any], seconds: float | None) -> None:
    """Where both are given, Tidelog's counts; where neither is, the server's setting."""
    assert read(**config).timeout_seconds == seconds


@pytest.mark.parametrize("method", [*METHODS, "get"])
def test_methods(method: str) -> None:
    """Every method that a body of HTTP steps needs, in any case."""
    assert read_http(method=method).method == method.upper()


@pytest.mark.parametrize("declared", [Message, Message.model_json_schema()])
def test_schemas_are_models_or_json_schema(declared: Any) -> None:
    """A model class and its model_json_schema() mean the same."""
    http = read_http(bodySchema=declared, responseSchema={200: declared, "404": {"type": "object"}})
    assert http.body_schema is not None
    assert http.body_schema.fits({"text": "hi"})
    assert not http.body_schema.fits({"text": 1})
    assert http.response_schemas == {200: Message.model_json_schema(), 404: {"type": "object"}}


def test_a_class_whose_fields_would_be_masked_is_no_body_schema() -> None:
    """The handler would get asterisks; as JSON Schema it is a text like others."""

    class Login(BaseModel):
        password: SecretStr

    assert "a SecretStr would reach the handler as asterisks" in refusal(bodySchema=Login)
    assert read_http(bodySchema=Login.model_json_schema()).body_schema is not None


@pytest.mark.parametrize("declared", [Message, Message.model_json_schema()])
def test_one_plain_response_schema_is_that_of_status_200(declared: Any) -> None:
    """Some write the schema itself where its status belongs."""
    assert read_http(responseSchema=declared).response_schemas == {200: Message.model_json_schema()}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": None}, 'config["name"] must be a string, and it is missing'),
        ({"name": " "}, "config[\"name\"] must be a string, not ' '"),
        ({"method": "FETCH"}, "must be one of GET, POST"),
        ({"path": 5}, 'config["path"] must be a string, not 5'),
        ({"path": "chat"}, "path 'chat' must begin with '/'"),
        ({"description": 1}, 'config["description"] must be a string, not 1'),
        ({"flows": "chat"}, "must be a list of strings, not 'chat'"),
        ({"retries": 11}, "from 0 to 10, not 11"),
        ({"retries": True}, "from 0 to 10, not True"),
        ({"retries": 1, "transaction": False}, "needs a transaction"),
        ({"transaction": "no"}, "must be True or False, not 'no'"),
        (
            {"timeoutSeconds": "30s"},
            "timeoutSeconds\"] must be a number of seconds up to 86400, 0 for no limit, not '30s'",
        ),
        ({"timeoutSeconds": -1}, "0 for no limit, not -1"),
        ({"timeoutSeconds": True}, "0 for no limit, not True"),
        ({"timeoutSeconds": float("nan")}, "0 for no limit, not nan"),
        ({"infrastructure": {"handler": {"timeout": "1m"}}}, '["handler"]["timeout"] must be a number of seconds'),
        ({"bodyschema": {}}, "config has 'bodyschema', which no API step has; its keys are auth, bodySchema, "),
        ({"emit": []}, "without effect here, includeFiles, "),
        ({"middleware": [handler]}, "'handler' must take (req, context, next_fn)"),
        ({"middleware": [print]}, "'print' must be `async def middleware"),
        ({"middleware": handler}, 'config["middleware"] must be a list of functions'),
        ({"middleware": ["mw"]}, 'config["middleware"] must be a list of functions'),
        ({"guards": handler}, 'config["guards"] must be a list of functions'),
        ({"guards": None}, 'config["guards"] is None: nothing would be guarded'),
        ({"auth": None}, 'config["auth"] is None: nothing would be guarded'),
        ({"auth": True}, 'config["auth"] must be "required" or "optional", not True'),
        ({"auth": "Required"}, "not 'Required'"),
        ({"bodySchema": {"type": "sting"}}, 'bodySchema: not a valid JSON Schema: /type: "sting"'),
        ({"bodySchema": "Message"}, "bodySchema: a schema must be JSON Schema"),
        ({"responseSchema": {200: {"pattern": "("}}}, "responseSchema[200]: not a valid JSON Schema"),
        ({"responseSchema": {200: {}, "200": {}}}, "'200' must be a status from 200 to 599, given once"),
        ({"responseSchema": {200: {}, "type": "object"}}, "'type' must be a status"),
        ({"responseSchema": {"0": {}}}, "'0' must be a status"),
    ],
)
def test_a_refusal_names_the_value(config: dict[str, Any], message: str) -> None:
    """The author reads what is wrong, with what was found."""
    assert message in refusal(**config)


@pytest.mark.parametrize(
    "path",
    [
        "/:",
        "/:1a",
        "/a:b",
        "/:a/:a",
        "/:a-b",
        "/{a}",
        "/a//b",
        "/*a/b",
        "/a*",
        "/*a-b",
        "/a b",
        "/a?x",
        "/..",
        "/%20",
        "",
    ],
)
def test_a_path_that_cannot_be_matched_is_refused(path: str) -> None:
    """Parameters are whole segments and unique identifiers; the rest is plain text."""
    with pytest.raises(DeclarationError, match="path"):
        parse_path(path)


@pytest.mark.parametrize(
    ("path", "segments"),
    [("/", ()), ("/chat", ("chat",)), ("/a/:b_1/c.json/", ("a", ":b_1", "c.json"))],
)
def test_a_path_is_its_segments(path: str, segments: tuple[str, ...]) -> None:
    """A slash at the end makes no difference."""
    assert parse_path(path) == segments


def test_handlers_take_one_or_two_arguments() -> None:
    """A handler with more needs, or none, is refused; so is one that yields, and a missing one."""

    class Callable:
        async def __call__(self, req: Any, context: Any) -> None: ...

    def generator(req: Any) -> Any:
        yield

    for good in (handler, lambda req: 1, lambda *args: 1, lambda req, ctx, more=1: 1, Callable()):
        assert Step.from_config(CONFIG, good).handler is good
    bad: dict[str, list[Any]] = {
        "must take (req, context) or (req)": [lambda: 1, lambda a, b, c: 1, lambda req, *, db: 1],
        "handler yields": [generator],
        "the file needs `async def handler(req, context)`": [None, "handler"],
    }
    for message, handlers in bad.items():
        for each in handlers:
            with pytest.raises(DeclarationError) as refused:
                Step.from_config(CONFIG, each)
            assert message in str(refused.value)


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("/a/:b", ["/a/:b"]),
        ("/:b?", ["/:b", "/"]),
        ("/a/:b?/:c?", ["/a/:b/:c", "/a/:b", "/a"]),
        ("/a/:b?/c", ["/a/:b/c", "/a/c"]),
        ("/a/*", ["/a/*0"]),
        ("/a/*rest", ["/a/*rest"]),
        ("/a/:rest+", ["/a/*rest"]),
        ("/a/:rest*", ["/a/*rest", "/a"]),
    ],
)
def test_a_step_is_at_each_path_that_its_own_means(path: str, expanded: list[str]) -> None:
    """With and without what may be missing; in Express's spellings, as Motia has them."""
    step = Step.from_config({**CONFIG, "path": path}, handler)
    assert [trigger.path for trigger in step.triggers] == expanded


def test_a_path_has_a_few_parameters_that_may_be_missing() -> None:
    """Each doubles the paths that are served."""
    with pytest.raises(DeclarationError, match="more than 4"):
        Step.from_config({**CONFIG, "path": "/:a?/:b?/:c?/:d?/:e?"}, handler)
