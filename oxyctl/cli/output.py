"""What commands print: one JSON envelope, plain tables, and errors as one message with an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from oxyctl.errors import ExitCode, OxyctlError
from oxyctl.render.envelope import SCHEMA, print_envelope

__all__ = ["SCHEMA", "explain", "print_envelope", "print_table", "say"]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest value, the last one as long as it is; nothing is cut."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def say(text: str) -> None:
    """Tell the person something that is not the result."""
    print(text, file=sys.stderr, flush=True)


def explain(error: Exception) -> int:
    """Print the message of `error` and return the exit code that goes with it; what has none is raised again."""
    from proxy.settings import DocumentError

    if isinstance(error, BrokenPipeError):  # `oxyctl ... | head`: not our failure, and nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    if isinstance(error, DocumentError):
        say(f"error: {error}")
        return ExitCode.USAGE
    if isinstance(error, OxyctlError):
        say(f"error: {error}")
        return error.exit_code
    raise error
