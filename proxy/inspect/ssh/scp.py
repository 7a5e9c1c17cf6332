"""What an `scp` command asks of a server in its old protocol."""

from __future__ import annotations

import shlex
from typing import Literal


def is_scp(command: str) -> Literal["read", "write"] | None:
    """Whether files are fetched (`scp -f`) or stored (`scp -t`); None for every other command."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if not words or words[0].rpartition("/")[2] != "scp":
        return None
    flags = "".join(each[1:] for each in words[1:] if each.startswith("-") and not each.startswith("--"))
    return "write" if "t" in flags else "read" if "f" in flags else None
