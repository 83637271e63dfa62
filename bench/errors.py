"""Errors that are the user's to mend: one clear text, exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from bench.disk import full

PATHS = FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError  # a user's


class BadInput(Exception):
    """What is wrong, where, and what to do about it."""


class BadSpec(BadInput):
    """Every problem of a spec at once, each "file:line: what is wrong and what to do"."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def run_command(main: Callable[[], int]) -> None:
    """Run a command's `main` as a process: BadInput → stderr and exit 2, Ctrl-C → exit 130."""
    try:
        sys.exit(main())
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if full(error):
            remedy = "make room and run the same command again; what is there is whole"
        elif isinstance(error, PATHS) and error.filename:
            remedy = "name another path"
        else:
            raise
        print(f"error: {error}: {remedy}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(130)
