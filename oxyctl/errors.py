"""Errors of commands: one message for the user, and the exit code that scripts rely on."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """The exit codes of every command; `lab exec` passes on its program's own instead."""

    DONE = 0
    FAILED = 1
    USAGE = 2  # or a file that is not valid
    CHECK_FAILED = 3
    NOTHING_MATCHED = 4
    LAB_NOT_FOUND = 5


class OxyctlError(Exception):
    """A failure that is shown as one message, without a traceback."""

    exit_code = ExitCode.FAILED


class UsageError(OxyctlError):
    """What was typed, or a file, makes no sense."""

    exit_code = ExitCode.USAGE


class NothingMatched(OxyctlError):
    """The lab is there; the node or flow that was named is not."""

    exit_code = ExitCode.NOTHING_MATCHED


class LabNotFound(OxyctlError):
    """No such lab, or none at all, or several of which one must be named."""

    exit_code = ExitCode.LAB_NOT_FOUND
