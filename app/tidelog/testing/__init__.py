"""A pytest plugin for authors of streams and steps: their application, a database for each test, what subscribers get.

    pytest_plugins = ["tidelog.testing"]    # in the conftest.py at the top of the tests

The fixtures are in fixtures.py. Importing this neither connects nor discovers.
(PYTEST_DONT_REWRITE: it may be imported before pytest finds it.)
"""

from importlib.util import find_spec

if missing := [name for name in ("pytest", "pytest_asyncio", "httpx") if find_spec(name) is None]:
    raise ModuleNotFoundError(f"tidelog.testing needs {', '.join(missing)}: pip install 'tidelog[testing]'")

from tidelog.testing.databases import Databases
from tidelog.testing.recording import Recording
from tidelog.testing.served import ServedApp, serve

__all__ = ["Databases", "Recording", "ServedApp", "serve"]

pytest_plugins = ["tidelog.testing.fixtures"]
