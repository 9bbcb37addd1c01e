"""Runs authors' files as modules of one package tree, each with its own view of what a bare import means.

Knows nothing of streams and steps.
"""

import ast
import builtins
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

MOTIA = "motia"
OUR_MOTIA = "tidelog.motia"  # what `import motia` means where there is no such package
PACKAGE = "tidelog_project"  # the name under which the authors' files are found in tracebacks and loggers


class Project(MetaPathFinder):
    """The authors' files as one package: `steps/chat/post_step.py` is `tidelog_project.steps.chat.post_step`.

    In Motia each step has a process, where the folder of its file and the project's root are importable.
    Here they share one, and two folders may each have a `models.py`. So a bare `import models` is looked for
    in the file's folder and in those above it up to the root, and is the same module as `from . import models`;
    only then it means what it means elsewhere. That holds for imports inside of handlers, too: it is not
    sys.path that changes but the `__import__` of the authors' modules. The standard library comes first.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._places: dict[str, Path] = {}  # of modules and packages by name, where the name alone won't do
        self.name = self._take_name()
        package = ModuleType(self.name)
        package.__path__ = [str(root)]
        sys.modules[self.name] = package
        sys.meta_path.insert(0, self)
        importlib.invalidate_caches()

    def load(self, file: Path) -> ModuleType:
        """Run `file`, or find the module if another file has imported it. Raises whatever the file raises."""
        name = self.module_name(file.with_suffix(""))
        self._places[name] = file
        return importlib.import_module(name)

    def module_name(self, path: Path) -> str:
        """The name of a folder's package or a file's module. It needn't be an identifier, but a dot splits it."""
        name = self.name
        place = self.root
        for part in path.relative_to(self.root).parts:
            place /= part
            name += "." + part.replace(".", "%2e")
            if "." in part and place.is_dir():
                self._places[name] = place
        return name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Part of Python's import system (importlib.abc.MetaPathFinder)."""
        if not fullname.startswith(self.name + "."):
            return None
        place = self._places.get(fullname)
        if place is None:
            spec = PathFinder.find_spec(fullname, path, target)
        elif place.is_dir():
            spec = _package_spec(fullname, place)
        else:
            spec = importlib.util.spec_from_file_location(fullname, place)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path, self)
        return spec

    def import_for(self, folder: Path) -> Callable[..., Any]:
        """What `import` does in the files of `folder`; see the `__import__` of Python's builtins."""

        def import_(
            name: str,
            globals: dict[str, Any] | None = None,
            locals: dict[str, Any] | None = None,
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> ModuleType:
            top = name.partition(".")[0]
            home = None if level else self._home(top, folder)
            if home is None and name == MOTIA and not level and not _has_code(MOTIA):
                return importlib.import_module(OUR_MOTIA)
            if home is None:
                return builtins.__import__(name, globals, locals, fromlist or (), level)
            imported = builtins.__import__(f"{home}.{name}", globals, locals, fromlist or (), 0)
            return imported if fromlist else sys.modules[f"{home}.{top}"]

        return import_

    def _home(self, top: str, folder: Path) -> str | None:
        """The package with what a file in `folder` means by `import <top>`; None if it isn't the project's."""
        if top in sys.stdlib_module_names:
            return None
        folders = [folder, *(above for above in folder.parents if above.is_relative_to(self.root))]
        for place in folders:
            if (place / f"{top}.py").is_file() or (place / top / "__init__.py").is_file():
                return self.module_name(place)
        for place in folders:
            # A plain folder comes last, as elsewhere in Python: `steps/stripe/` must not hide the package.
            if (place / top).is_dir() and not _is_importable(top, except_from=place / top):
                return self.module_name(place)
        return None

    def _take_name(self) -> str:
        """The name of this root's package. What was loaded under it before is forgotten, and loaded anew."""
        others = {finder.name: finder for finder in sys.meta_path if isinstance(finder, Project)}
        for name, finder in others.items():
            if finder.root == self.root:
                sys.meta_path.remove(finder)
                for module in [module for module in sys.modules if f"{module}.".startswith(f"{name}.")]:
                    del sys.modules[module]
                return name
        return PACKAGE if PACKAGE not in others else f"{PACKAGE}_{len(others) + 1}"


class _Loader(SourceFileLoader):
    """Loads a file with an `__import__` of its own, and leaves no bytecode in the authors' folders."""

    def __init__(self, fullname: str, path: str, project: Project) -> None:
        super().__init__(fullname, path)
        self._import = project.import_for(Path(path).parent)

    def exec_module(self, module: ModuleType) -> None:
        # Documented for exec(): a `__builtins__` in the globals is what the code finds its builtins in.
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        super().exec_module(module)

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Keep no bytecode."""


def cause_of(error: BaseException, file: Path, root: Path) -> str:
    """One line that says what `error` is and where it comes from: in `file`, and deeper in the project."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno))
        text = error.msg
    else:
        text = str(error)
    if isinstance(error, SystemExit):
        text = f"the file ends the process when it is imported ({error.code!r}); put that under a function"
    text = f"{type(error).__name__}: {' '.join(text.split())}".removesuffix(": ")
    own = [line for name, line in frames if name == str(file)]
    deepest = next(((name, line) for name, line in reversed(frames) if Path(name).is_relative_to(root)), None)
    if deepest is not None and deepest[0] != str(file):
        text += f" ({Path(deepest[0]).relative_to(root)}, line {deepest[1]})"
    return f"line {own[-1]}: {text}" if own else text


def line_of(name: str, file: Path) -> int | None:
    """The line of `file` that assigns or defines `name` at its top level, last."""
    line = None
    for node in ast.parse(file.read_bytes()).body:
        if getattr(node, "name", None) == name:  # of a function or a class
            line = node.lineno
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            line = node.lineno
    return line


def _package_spec(fullname: str, folder: Path) -> ModuleSpec | None:
    init = folder / "__init__.py"
    if init.is_file():
        spec = importlib.util.spec_from_file_location(fullname, init)
    else:
        spec = ModuleSpec(fullname, None, is_package=True)
    if spec is not None:
        spec.submodule_search_locations = [str(folder)]
    return spec


def _has_code(top: str) -> bool:
    """Whether it can be imported, and is more than a folder that happens to have this name."""
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:
        return True
    return spec is not None and spec.origin is not None


def _is_importable(top: str, *, except_from: Path) -> bool:
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # it is in sys.modules without a spec, like __main__
        return True
    return spec is not None and str(except_from) not in (spec.submodule_search_locations or ())
