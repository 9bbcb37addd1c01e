"""Check a saved history again: `python -m tests.faults.check FILE`."""

import argparse
import sys
from pathlib import Path

from tests.faults.checker import check
from tests.faults.history import History


def main() -> None:
    parser = argparse.ArgumentParser(description="Check a history that a run of the fault suite saved.")
    parser.add_argument("file", type=Path)
    history = History.load(parser.parse_args().file)
    problems = check(history)
    print(f"seed {history.seed}: {len(history.commits)} commits, {history.frames} frames, {len(problems)} problems")  # noqa: T201 - a command's output
    for problem in problems:
        print(problem)  # noqa: T201 - a command's output
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
