"""The output of commands: one JSON envelope, plain tables, and errors as one message with an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from oxyctl.errors import ExitCode, OxyctlError
from oxyctl.render.envelope import SCHEMA, print_envelope

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

__all__ = ["SCHEMA", "explain", "option_error", "print_envelope", "print_table", "say"]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as their widest value. Nothing is cut."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def say(text: str) -> None:
    """Print a remark for the person, which is not part of the result, on standard error."""
    print(text, file=sys.stderr, flush=True)


def option_error(error: Exception) -> str:
    """A message of msgspec's about the value of an option: `--rate: expected a number > 0.0`."""
    from proxy.settings.document import in_words

    _, _, place = str(error).partition(" - at `$.")
    option = place.rstrip("`").rpartition(".")[2].removesuffix("_s").replace("_", "-")
    return f"--{option}: {in_words(str(error))}" if option else in_words(str(error))


def explain(error: Exception) -> int:
    """Print the message of `error` and return its exit code. An error without an exit code is raised again."""
    from proxy.settings import DocumentError

    if isinstance(error, BrokenPipeError):  # `oxyctl ... | head`: not our failure, and nobody reads a message
        _discard_output()
        return ExitCode.DONE
    if isinstance(error, OSError) and error.errno in _FULL:
        _discard_output()
        say(f"error: cannot write: {(error.strerror or str(error)).lower()}")
        return ExitCode.FAILED
    if isinstance(error, DocumentError):
        say(f"error: {error}")
        return ExitCode.USAGE
    if isinstance(error, OxyctlError):
        say(f"error: {error}")
        return error.exit_code
    raise error


def _discard_output() -> None:
    """Drop what is buffered: to write it at the end would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
