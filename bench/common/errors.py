"""Errors that are the user's to mend: one clear text, exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from bench.common.disk import is_disk_full
from bench.common.exit_codes import BAD_INPUT, STOPPED

PATHS = FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError  # a user's


class UserError(Exception):
    """What is wrong, where, and what to do about it."""


class NonFinite(Exception):
    """A value of training or evaluation is NaN or infinite; the text names where it first occurs."""


class ConfigError(UserError):
    """Every problem of a spec at once, each "file:line: what is wrong and what to do"."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def run_command(main: Callable[[], int]) -> None:
    """Run a command's `main` as a process: UserError → stderr and exit 2, Ctrl-C → exit 130."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except OSError as error:
        if is_disk_full(error):
            remedy = "make room and run the same command again; what is there is whole"
        elif isinstance(error, PATHS) and error.filename:
            remedy = "name another path"
        else:
            raise
        print(f"error: {error}: {remedy}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(STOPPED)
