"""The output of commands: one JSON envelope, plain tables, and errors as one message with an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from oxyctl.errors import ExitCode, OxyctlError
from oxyctl.render.envelope import SCHEMA, print_envelope

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

__all__ = ["SCHEMA", "option_error", "print_envelope", "print_stderr", "print_table", "report_error"]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as their widest value, without truncating any."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_stderr(text: str) -> None:
    """Print a remark, which is not part of the result, on standard error."""
    print(text, file=sys.stderr, flush=True)


def option_error(error: Exception) -> str:
    """A validation error of msgspec as one about an option: `--rate: expected a number > 0.0`."""
    from proxy.settings.document import in_words

    _, _, path = str(error).partition(" - at `$.")
    option = path.rstrip("`").rpartition(".")[2].removesuffix("_s").replace("_", "-")
    return f"--{option}: {in_words(str(error))}" if option else in_words(str(error))


def report_error(error: Exception) -> int:
    """Print the message of `error` and return its exit code. An error without an exit code is raised again."""
    from proxy.settings import DocumentError

    if isinstance(error, BrokenPipeError):  # `oxyctl ... | head`: not a failure
        _discard_output()
        return ExitCode.DONE
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        _discard_output()
        print_stderr(f"error: cannot write: {(error.strerror or str(error)).lower()}")
        return ExitCode.FAILED
    if isinstance(error, DocumentError):
        print_stderr(f"error: {error}")
        return ExitCode.USAGE
    if isinstance(error, OxyctlError):
        print_stderr(f"error: {error}")
        return error.exit_code
    raise error


def _discard_output() -> None:
    """Drop what is buffered: writing it at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
