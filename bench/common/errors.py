"""Errors that users can fix: one clear text, exit code 2, no traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.common.disk import is_disk_full
from bench.common.exit_codes import BAD_INPUT, CLOSED_PIPE, STOPPED
from bench.common.paths import CACHE_VARIABLE, cache_dir

PATH_ERRORS = FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError
UNWRITABLE_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """What is wrong, where, and what to do about it."""


class NonFinite(Exception):
    """A value of training or evaluation is NaN or infinite; the text names where it first occurs."""


class ConfigError(UserError):
    """Every problem of a spec at once, each "file:line: what is wrong and what to do"."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def remedy(error: OSError) -> str | None:
    """What a user can do about an error of the file system; None where it is no fault of disk or path."""
    if is_disk_full(error):
        return "free space and re-run; existing outputs are intact"
    if not error.filename or not (isinstance(error, PATH_ERRORS) or error.errno in UNWRITABLE_ERRNOS):
        return None
    path = Path(os.fsdecode(error.filename)).absolute()
    if path.is_relative_to(cache_dir().absolute()):
        return f"set {CACHE_VARIABLE} to a folder that can be written to"
    return "pass another path" if error.errno not in UNWRITABLE_ERRNOS else "pass a path that can be written to"


def run_command(main: Callable[[], int]) -> None:
    """Run a command's `main` as a process, whatever the output's encoding.

    UserError and errors of paths → stderr and exit 2; Ctrl-C → exit 130; output closed by its reader → exit 141.
    """
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
    try:
        code = main()
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # `… | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
        sys.exit(CLOSED_PIPE)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except OSError as error:
        if (advice := remedy(error)) is None:
            raise
        print(f"error: {error}: {advice}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted: re-run the same command to resume", file=sys.stderr)
        sys.exit(STOPPED)
