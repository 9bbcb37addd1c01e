"""What authors may write into *_stream.py and *_step.py files, and what becomes of it."""

import os
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from tidelog.errors import DeclarationError
from tidelog.model.step import endpoints_of
from tidelog.runtime.discovery import Discovered, discover

Write = Callable[[str, str], Path]

STREAM = 'config = {"name": "chatMessage", "schema": {"type": "object"}, "baseConfig": {"storageType": "default"}}'
STEP = """
config = {"type": "api", "name": "Post", "method": "POST", "path": "/chat/:room", "emits": []}
async def handler(req, context):
    return {"status": 200}
"""


@pytest.fixture
def steps_dir(tmp_path: Path) -> Path:
    return tmp_path / "project" / "steps"


@pytest.fixture
def write(steps_dir: Path) -> Write:
    """Write a file under the steps dir."""

    def write(path: str, text: str) -> Path:
        file = steps_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
        return file

    return write


def step(path: str, imports: str = "", answer: str = "None", in_handler: str = "pass") -> str:
    """A step file with a plain handler whose answer is `answer`."""
    config = {"type": "api", "name": path, "method": "GET", "path": path}
    return f"{imports}\nconfig = {config!r}\ndef handler(req):\n    {in_handler}\n    return {answer}\n"


def answers(discovered: Discovered) -> dict[str, object]:
    """What each step's handler answers, by path."""
    assert discovered.broken == ()
    return {http.path: step.handler({}) for step, http in endpoints_of(discovered.steps)}


def test_what_is_in_src_beside_steps_is_found_too(write: Write, steps_dir: Path) -> None:
    """Each folder's files import the other's, and what is above them; whichever of the two is named."""
    write("../services/names.py", "NAME = 'ada'")
    write("../src/shared/greeting.py", "from services.names import NAME\nTEXT = 'hello ' + NAME")
    write("../src/greet_step.py", step("/src", "from .shared.greeting import TEXT", "TEXT"))
    write("greet_step.py", step("/steps", "from src.shared.greeting import TEXT", "TEXT"))
    write("chat/again_step.py", step("/again", "from steps.greet_step import handler as other", "other({})"))
    expected = {"/src": "hello ada", "/steps": "hello ada", "/again": "hello ada"}
    assert answers(discover(steps_dir)) == expected
    assert answers(discover(steps_dir.parent / "src")) == expected


def test_a_dotenv_file_is_read_before_the_steps(
    write: Write, steps_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The environment goes before it; the server's own settings don't come from there."""
    names = ("DOTENV_A", "DOTENV_B")
    for name in names:
        monkeypatch.setenv(name, "to be restored")
    monkeypatch.delenv("DOTENV_A")
    write("../.env", "DOTENV_A='from the file'\nDOTENV_B=from the file\nTIDELOG_PORT=1\n# DOTENV_C=1\n")
    write("a_step.py", step("/a", f"import os\nREAD = [os.environ[name] for name in {names}]", "READ"))
    assert answers(discover(steps_dir)) == {"/a": ["from the file", "to be restored"]}
    assert "TIDELOG_PORT is a setting" in caplog.text and "TIDELOG_PORT" not in os.environ
    (steps_dir.parent / ".env").write_bytes(b"A=\xff")
    with pytest.raises(DeclarationError, match=r"\.env can't be read"):
        discover(steps_dir)


def test_streams_and_steps_are_found_in_every_folder(write: Write, steps_dir: Path) -> None:
    """Files are found recursively, and known by what their config says."""
    write("chat/chat_message_stream.py", STREAM)
    file = write("chat/rooms/01-post_step.py", STEP)
    discovered = discover(steps_dir)
    assert not discovered.broken and not discovered.skipped
    assert discovered.streams["chatMessage"].table == "chat_message"
    ((found, http),) = endpoints_of(discovered.steps)
    assert (found.name, http.method, http.path, found.file) == ("Post", "POST", "/chat/:room", file)


@pytest.mark.parametrize("folder", [".git", "__pycache__", "node_modules", "chat/.venv"])
def test_hidden_and_foreign_folders_are_left_alone(folder: str, write: Write, steps_dir: Path) -> None:
    """What tools put into a project is never run."""
    write(f"{folder}/evil_step.py", "raise SystemExit")
    write(".#evil_step.py", "raise SystemExit")
    assert discover(steps_dir) == Discovered({}, ())


def test_a_missing_folder_is_named_with_all_that_may_have_named_it(steps_dir: Path) -> None:
    """Without a steps dir nothing starts, and the message says what to change: who asks doesn't know which it was."""
    with pytest.raises(DeclarationError, match=f"no folder {steps_dir}: .*--steps-dir, TIDELOG_STEPS_DIR, .*steps_dir"):
        discover(steps_dir)


@pytest.mark.parametrize(
    ("name", "text", "suffix"),
    [
        ("job_streams.py", STREAM, "_stream.py"),
        ("job.stream.py", STREAM, "_stream.py"),
        ("stream.py", STREAM.replace("config =", "config: dict ="), "_stream.py"),
        ("start_job.py", STEP, "_step.py"),
        ("jobs/start_job_steps.py", STEP, "_step.py"),
        ("models.py", "config = {'name': 'jobs', 'retries': 3}", None),
        ("settings.py", "config = load({'type': 'api'})", None),
        ("notes.txt", STEP, None),
        ("broken.py", "config = {", None),
        ("nul.py", "config = '\0'", None),
    ],
)
def test_a_file_that_only_its_name_keeps_from_being_read_is_told(
    name: str, text: str, suffix: str | None, write: Write, steps_dir: Path
) -> None:
    """It is not run: it may be something else. Other modules are left alone."""
    file = write(name, f"{text}\nraise SystemExit" if suffix else text)
    found = discover(steps_dir)
    assert (found.streams, found.steps, found.broken) == ({}, (), ())
    assert [(one.path, one.cause.rpartition(" ")[2]) for one in found.skipped] == ([(file, suffix)] if suffix else [])


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("x = 1\nconfig = {", "line 2: SyntaxError: '{' was never closed"),
        ("\nimport no_such_module", "line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "line 1: SystemExit: the file ends the process when it is imported (3)"),
        ("import sys\nsys.exit()", "line 2: SystemExit: the file ends the process"),
        ("class Odd(BaseException): pass\nraise Odd('a\\nb')", "line 2: Odd: a b"),
        ("", "must assign a dict to `config`"),
        ("\nconfig = []", "line 2: the file must assign a dict to `config` at its top level, not []"),
        (
            "\n\nconfig = {'type': 'http'}",
            """line 3: config["type"] must be api, event, cron, stream, state or noop, not 'http'""",
        ),
        ("config = {'name': 'x', 'triggers': []}", """line 1: config["triggers"] must be a list of triggers, not []"""),
        ("from .helper import x", "line 1: ZeroDivisionError: division by zero (steps/helper.py, line 2)"),
        ("from .typo import x", "line 1: SyntaxError: invalid syntax (steps/typo.py, line 1)"),
    ],
)
def test_a_broken_file_is_reported_and_the_others_work(text: str, cause: str, write: Write, steps_dir: Path) -> None:
    """Whatever a file does when it is imported, its cause and line are told, and no other file suffers."""
    write("helper.py", "\n1 / 0")
    write("typo.py", "a b")
    write("a_stream.py", STREAM)
    file = write("b_step.py", text)
    write("c_step.py", STEP)
    discovered = discover(steps_dir)
    (broken,) = discovered.broken
    assert broken.path == file
    assert cause in broken.cause
    assert list(discovered.streams) == ["chatMessage"]
    assert [step.name for step in discovered.steps] == ["Post"]


def test_a_stream_of_lists_is_left_out_with_its_file_and_why(write: Write, steps_dir: Path) -> None:
    """Its author reads it at the start; the other streams are served."""
    file = write("list_stream.py", "\nconfig = {'name': 'list', 'schema': {'type': 'array'}}")
    write("note_stream.py", "config = {'name': 'note', 'schema': {'type': 'object'}}")
    discovered = discover(steps_dir)
    (broken,) = discovered.broken
    assert (broken.path, list(discovered.streams)) == (file, ["note"])
    assert broken.cause.startswith("line 2: stream 'list': no JSON object fits its schema")


def test_a_stream_whose_rule_is_no_function_is_not_opened(write: Write, steps_dir: Path) -> None:
    """An author who closed a stream, and made a mistake, finds it missing rather than open."""
    write("a_stream.py", 'config = {"name": "secret", "schema": {}, "canAccess": None}')
    discovered = discover(steps_dir)
    assert discovered.streams == {}
    assert "canAccess must be a function" in discovered.broken[0].cause


def test_the_authentication_is_found_by_its_files_name(write: Write, steps_dir: Path) -> None:
    """In any folder below the steps', and it may import what stands beside it."""
    write("who/users.py", "NAMES = {'t': 'ada'}")
    write("who/stream_auth.py", "from users import NAMES\ndef authenticate(request): return NAMES[request['token']]")
    found = discover(steps_dir).authenticate
    assert found is not None and found.call({"token": "t"}) == "ada"
    assert not found.is_async


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("raise SystemExit", "ends the process"),
        ("def authentícate(request): ...", "authenticate must be a function, not None"),
        ("authenticate = None", "authenticate must be a function, not None"),
        ("def authenticate(): ...", "must take (request)"),
        ("async def authenticate(request, context): ...", "must take (request)"),
    ],
)
def test_an_authentication_that_cannot_be_used_stops_everything(
    text: str, cause: str, write: Write, steps_dir: Path
) -> None:
    """Left out like other broken files, it would leave all others open."""
    write("stream_auth.py", text)
    write("a_stream.py", STREAM)
    with pytest.raises(DeclarationError, match=r"stream_auth\.py: ") as refused:
        discover(steps_dir)
    assert cause in str(refused.value)


def test_two_authentications_stop_everything(write: Write, steps_dir: Path) -> None:
    """Nobody chooses between them by chance."""
    write("stream_auth.py", "def authenticate(request): ...")
    write("b/stream_auth.py", "def authenticate(request): ...")
    with pytest.raises(DeclarationError, match="both say who sends requests"):
        discover(steps_dir)


@pytest.mark.parametrize(
    ("config", "handler"),
    [
        ({"type": "event", "subscribes": ["a"], "emits": []}, "async def handler(input, context): ..."),
        ({"type": "event", "subscribes": ["a"]}, "def handler(input_data): ..."),
        ({"type": "cron", "cron": "*/5 * * * *"}, "async def handler(context): ..."),
        ({"type": "cron", "cron": "0 */5 * * * *"}, "async def handler(_, context): ..."),
        ({"type": "stream", "streamName": "chatMessage"}, "async def handler(input, context): ..."),
        ({"type": "noop", "virtualEmits": ["a"]}, ""),
    ],
)
def test_motias_other_types_of_step_are_read(
    config: dict[str, object], handler: str, write: Write, steps_dir: Path
) -> None:
    """They are none that requests are for."""
    write("a_step.py", f"config = {config | {'name': 'a', 'flows': ['f']}}\n{handler}")
    discovered = discover(steps_dir)
    assert not discovered.broken and not discovered.skipped
    assert [step.name for step in discovered.steps] == ["a"] and not endpoints_of(discovered.steps)


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"type": "event"}, 'config["subscribes"] must be a list of topics, not None'),
        ({"type": "event", "subscribes": ["a"], "method": "GET"}, "config has 'method', which no event step has"),
        ({"type": "event", "subscribes": ["a"], "emits": [{"label": "b"}]}, 'config["emits"]: a topic is a text'),
        ({"type": "event", "subscribes": ["a"], "input": {"type": 1}}, "input: not a valid JSON Schema"),
        ({"type": "cron", "cron": "* * 31 2 *"}, "config[\"cron\"] is '* * 31 2 *', which is no time"),
        ({"type": "cron", "cron": "every day"}, "config[\"cron\"] is 'every day', which is no time"),
        ({"type": "stream"}, 'config["streamName"] must be a string, and it is missing'),
        (
            {"type": "event", "subscribes": ["a"], "infrastructure": {"queue": {"maxRetrys": 1}}},
            'config["infrastructure"]["queue"] has \'maxRetrys\'; there are concurrency, ',
        ),
        (
            {"type": "event", "subscribes": ["a"], "infrastructure": {"queue": {"type": "lifo"}}},
            "config[\"infrastructure\"][\"queue\"][\"type\"] must be 'standard' or 'fifo', not 'lifo'",
        ),
        (
            {"type": "event", "subscribes": ["a"], "infrastructure": {"queue": {"maxRetries": -1}}},
            'config["infrastructure"]["queue"]["maxRetries"] must be a whole number from 0 to 100, not -1',
        ),
    ],
)
def test_what_is_wrong_with_them_is_said(config: dict[str, object], cause: str, write: Write, steps_dir: Path) -> None:
    write("a_step.py", f"config = {config | {'name': 'a'}}\nasync def handler(input, context): ...")
    (broken,) = discover(steps_dir).broken
    assert cause in broken.cause


def test_two_reacting_steps_of_one_name_stop_everything(write: Write, steps_dir: Path) -> None:
    """What is to be handled is kept by the step's name."""
    for name in ("a_step.py", "b_step.py"):
        write(name, "config = {'type': 'cron', 'name': 'x', 'cron': '* * * * *'}\ndef handler(context): ...")
    with pytest.raises(DeclarationError, match=r"a_step.* and .*b_step.* both have the name 'x'"):
        discover(steps_dir)


@pytest.mark.parametrize("other", ["chat-message", "chatMessage"])
def test_two_streams_of_one_table_stop_everything(other: str, write: Write, steps_dir: Path) -> None:
    """Two files that would share a table are an error that names both files and both streams."""
    write("a_stream.py", STREAM)
    write("b_stream.py", STREAM.replace("chatMessage", other))
    with pytest.raises(DeclarationError, match=rf"'chatMessage' in .*a_stream.*'{other}' in .*b_stream"):
        discover(steps_dir)


@pytest.mark.parametrize("path", ["/chat/:room", "/chat/:id", "/chat/:room/"])
def test_two_steps_of_one_address_stop_everything(path: str, write: Write, steps_dir: Path) -> None:
    """A parameter's name makes no difference to which requests a path matches."""
    write("a_step.py", STEP)
    write("b_step.py", STEP.replace("/chat/:room", path).replace("Post", "Other"))
    with pytest.raises(DeclarationError, match=r"'Post' in .*a_step.*'Other' in .*b_step"):
        discover(steps_dir)


def test_one_path_may_have_a_step_for_each_method(write: Write, steps_dir: Path) -> None:
    """GET and DELETE of one path are two steps."""
    write("a_step.py", STEP)
    write("b_step.py", STEP.replace("POST", "DELETE"))
    assert [http.method for _, http in endpoints_of(discover(steps_dir).steps)] == ["POST", "DELETE"]


def test_each_folder_has_its_own_bare_sibling(write: Write, steps_dir: Path) -> None:
    """Two folders' models.py, imported by bare name, are two modules; within a folder it is one."""
    for folder in ("a", "b"):
        write(f"{folder}/models.py", f"who = ['{folder}']")
        write(f"{folder}/one_step.py", step(f"/{folder}/1", "import models", "models.who"))
        write(f"{folder}/two_step.py", step(f"/{folder}/2", "from models import who", "who"))
    found = answers(discover(steps_dir))
    assert [found["/a/1"], found["/b/1"]] == [["a"], ["b"]]
    assert found["/a/1"] is found["/a/2"]
    assert found["/b/1"] is found["/b/2"]


def test_a_bare_and_a_relative_import_are_one_module(write: Write, steps_dir: Path) -> None:
    """A model class is the same class, whichever way a file imports it."""
    write("a/models.py", "class Model: pass")
    write("a/one_step.py", step("/1", "from models import Model", "Model"))
    write("a/two_step.py", step("/2", "from .models import Model", "Model"))
    write("a/three_step.py", step("/3", "from steps.a.models import Model", "Model"))
    write("a/four_step.py", step("/4", "import steps.a.models as models", "models.Model"))
    assert len(set(answers(discover(steps_dir)).values())) == 1


def test_imports_inside_of_handlers_find_their_own_siblings(write: Write, steps_dir: Path) -> None:
    """A handler that imports when it runs gets its own folder's module, as at the top of the file."""
    for folder in ("a", "b"):
        write(f"{folder}/models.py", "import names\nwho = names.who")
        write(f"{folder}/names.py", f"who = '{folder}'")
        write(f"{folder}/one_step.py", step(f"/{folder}", "", "who", in_handler="from models import who"))
    assert answers(discover(steps_dir)) == {"/a": "a", "/b": "b"}


def test_the_project_root_and_the_steps_dir_are_importable(write: Write, steps_dir: Path) -> None:
    """Shared code may stand beside the steps dir or at its top, with or without __init__.py."""
    write("../services/mail.py", "import settings\nsent = settings.value")
    write("../lib/__init__.py", "")
    write("../lib/deep/money.py", "value = 2")
    write("../settings.py", "value = 1")
    write("shared.py", "value = 3")
    imports = "from services.mail import sent\nimport lib.deep.money\nfrom shared import value\n"
    imports += "from lib.deep import money\nfrom ...lib.deep.money import value as up"
    write("a/one_step.py", step("/", imports, "[sent, lib.deep.money.value, value, money.value, up]"))
    assert answers(discover(steps_dir)) == {"/": [1, 2, 3, 2, 2]}


def test_tidelogs_own_names_are_importable(write: Write, steps_dir: Path) -> None:
    """`tidelog` is Tidelog, for a step inside Tidelog's checkout and for one elsewhere."""
    write(
        "a_step.py",
        step("/", "from tidelog.errors import TidelogError\nimport tidelog.model.step", "TidelogError.code"),
    )
    write("../app/steps/a_step.py", step("/", "from tidelog.errors import TidelogError", "TidelogError.code"))
    assert answers(discover(steps_dir)) == answers(discover(steps_dir.parent / "app/steps")) == {"/": "tidelog_error"}


def test_a_folder_never_hides_a_package(write: Write, steps_dir: Path) -> None:
    """`steps/pydantic/` and `steps/email/` are folders of steps; `import pydantic` is still pydantic."""
    import_both = "import pydantic\nfrom email.message import Message"
    write("pydantic/one_step.py", step("/1", import_both, "pydantic.BaseModel and Message"))
    write("email/two_step.py", step("/2", import_both, "pydantic.BaseModel and Message"))
    assert len(answers(discover(steps_dir))) == 2


def test_names_that_are_no_identifiers_load(write: Write, steps_dir: Path) -> None:
    """Dashes, digits, spaces and dots in names of files and folders are fine, and tell files apart."""
    write("event-steps/v1.0/models.py", "value = 1")
    for number, name in enumerate(["01-a", "edit b", "c.d", "c_d"]):
        path = f"event-steps/v1.0/{name}_step.py"
        write(path, step(f"/{number}", "from .models import value", f"({number}, value)"))
    assert sorted(answers(discover(steps_dir)).values()) == [(n, 1) for n in range(4)]  # type: ignore[type-var]


def test_a_step_shares_the_model_of_its_stream_file(write: Write, steps_dir: Path) -> None:
    """A step that imports from a stream's file gets the module that declares the stream, run once."""
    write("chat_stream.py", f"from pydantic import BaseModel\nclass Message(BaseModel):\n    text: str\n{STREAM}")
    imports = "import sys\nfrom .chat_stream import Message"
    write("a_step.py", step("/", imports, "sys.modules[Message.__module__].config['name']"))
    assert answers(discover(steps_dir)) == {"/": "chatMessage"}


def test_discovering_again_reads_the_files_anew(write: Write, steps_dir: Path) -> None:
    """A file that was changed is run again, and so are its siblings."""
    write("models.py", "value = 1")
    write("a_step.py", step("/", "from models import value", "value"))
    assert answers(discover(steps_dir)) == {"/": 1}
    write("models.py", "value = 2")
    assert answers(discover(steps_dir)) == {"/": 2}


def test_two_projects_in_one_process_keep_apart(write: Write, steps_dir: Path) -> None:
    """Handlers of one project still find their own modules after another one was discovered."""
    lazy = step("/", "", "value", in_handler="from models import value")
    for project in ("steps", "../../other/steps"):
        write(f"../{project}/models.py", f"value = {project!r}")
        write(f"../{project}/a_step.py", lazy)
    first = discover(steps_dir)
    second = discover(steps_dir / "../../../other/steps")
    assert answers(first) == {"/": "steps"}
    assert answers(second) == {"/": "../../other/steps"}


def test_nothing_is_written_into_the_authors_folders(write: Write, steps_dir: Path) -> None:
    """No bytecode: the folder may be read-only, and a git status stays clean."""
    write("models.py", "value = 1")
    write("a_step.py", step("/", "import models", "models.value"))
    before = sorted(steps_dir.parent.rglob("*"))
    discover(steps_dir)
    assert sorted(steps_dir.parent.rglob("*")) == before


CONFIG = 'config = {"type": "api", "name": "Post", "method": "POST", "path": "/p", "emits": []}\n'


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("async def handler(req, context):\n    await context.enqueue({})", "line 3: context.enqueue does not exist"),
        (
            "def handler(request, ctx):\n    x = 1\n    return ctx.match.get('g', 'k')",
            "line 4: ctx.match does not exist",
        ),
        ("async def handler(req, context):\n    f = getattr(context, 'enqueue')", "line 3: context.enqueue"),
        ("async def handler(req, context):\n    c = context\n    await c.enqueue({})", "line 4: c.enqueue"),
        (
            "def handler(req, context):\n    async def inner():\n        await context.enqueue({})\n    inner()",
            "line 4: context.enqueue",
        ),
        (
            "async def tell(topic, where):\n    await where.enqueue({})\n"
            "async def handler(req, context):\n    await tell('a', context)",
            "line 3: where.enqueue",
        ),
        (
            "async def tell(topic, *, to):\n    await to.enqueue({})\n"
            "async def handler(req, context):\n    await tell('a', to=context)",
            "line 3: to.enqueue",
        ),
        (
            "class Handler:\n    async def __call__(self, req, context):\n        context.match\nhandler = Handler()",
            "line 4: context.match",
        ),
        (
            "import functools\ndef wrap(f):\n    @functools.wraps(f)\n    async def inner(req, context):\n"
            "        return await f(req, context)\n    return inner\n"
            "@wrap\nasync def handler(req, context):\n    await context.enqueue({})",
            "line 10: context.enqueue",
        ),
        (
            "async def handler(req, context):\n    await context.state.getAll('g')",
            "line 3: context.state.getAll does not exist",
        ),
        (
            "async def handler(req, c):\n    await c.streams.chat.getGroups('g')",
            "line 3: c.streams.chat.getGroups does not exist",
        ),
        ("from .elsewhere import handler", "steps/elsewhere.py, line 3: context.match"),
    ],
)
def test_parts_of_motias_context_that_are_not_there_are_found_at_once(
    text: str, cause: str, write: Write, steps_dir: Path
) -> None:
    """The file is left out, with the line and what to do, rather than failing when the line runs."""
    write("elsewhere.py", "async def handler(req, context):\n    x = 1\n    context.match")
    file = write("a_step.py", CONFIG + text)
    write("b_step.py", STEP)
    (broken,) = discover(steps_dir).broken
    assert broken.path == file and broken.cause.startswith(cause)
    assert any(advice in broken.cause for advice in ("write context.emit", "one kind of trigger", "There are"))


@pytest.mark.parametrize(
    "text",
    [
        "def handler(req, context):\n    state = {'enqueue': 1}\n    return state.get('enqueue')",
        "class Machine:\n    state = 1\ndef handler(req, context):\n    return Machine().state",
        "def handler(req, context):\n    context.logger.info('x')\n    return req['state']",
        "def handler(req):\n    return req.state",
        "async def handler(req, context):\n    return await context.state.get_group(context.trace_id)",
        "async def handler(req, context):\n    return await context.streams.chat.list_groups()",
        "async def handler(req, context):\n    return context.streams.get('chat').whatever",
        "async def handler(req, context):\n    return context.streams.items.__name__",
        "def handler(req, context):\n    context = req\n    return context.state",
        "def handler(req, context):\n    def inner(context):\n        return context.state\n    return inner(req)",
        "def handler(req, context):\n    c = context\n    c = req\n    return c.state",
        "def helper(context):\n    return context.state\ndef handler(req, context):\n    return helper(req)",
        "def handler(req, context):\n    return getattr(context, 'state', None)",
        "def handler(req, context):\n    return handler(req, context)",
        "handler = lambda req, context: context",
        "import functools\ndef run(a, req, context):\n    pass\nhandler = functools.partial(run, 1)",
        "from json import loads as handler",
    ],
)
def test_what_is_only_called_so_is_left_alone(text: str, write: Write, steps_dir: Path) -> None:
    """Own variables, other objects' attributes, other meanings of the name; and texts."""
    write("a_step.py", CONFIG + text)
    discovered = discover(steps_dir)
    assert discovered.broken == () and len(discovered.steps) == 1


@pytest.mark.parametrize(
    ("text", "line", "cause"),
    [
        ("x = 1\nimport no_such_package\n", 2, "ModuleNotFoundError"),
        ("x = 1\n\nfrom beside import gone\n", 3, "cannot import name 'gone'"),
        ("x = 1\nfrom beside import broken\n", 2, "ImportError"),
        ("x = 1\nimport below.bad\n", 2, "(steps/below/bad.py, line 2)"),
        ("import json\njson.loads('{')\n", 2, "JSONDecodeError"),
        ("from pydantic import BaseModel\nclass A(BaseModel):\n    x: object()\n", 2, "pydantic"),
        (
            "\n" + STEP.replace("async def handler(req, context)", "async def handler(req, context, more)"),
            4,
            "handler(req",
        ),
        ("\n" + STEP.replace("async def handler(req, context)", "async def other(req, context)"), 3, "the file needs"),
        (STEP.replace('"POST"', '"PUSH"'), 2, '"method"'),
        (STEP + "handler = 5\n", 5, "handler is 5"),
    ],
)
def test_what_fails_names_the_line_of_the_file_that_it_is_about(
    write: Write, steps_dir: Path, text: str, line: int, cause: str
) -> None:
    """The author's own, and not one of a library or of ours; a file that it imports is named beside."""
    write("beside.py", "here = 1")
    write("below/bad.py", "\ndef f(:\n")
    write("a_step.py", text)
    (broken,) = discover(steps_dir).broken
    assert broken.path.name == "a_step.py"
    assert broken.cause.startswith(f"line {line}: ") and cause in broken.cause
    assert "\n" not in broken.cause and "/app/" not in broken.cause
