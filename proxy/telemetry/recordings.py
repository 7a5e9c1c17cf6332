"""The directory that holds the recordings of one tenant: `FLOW.CHANNEL.cast`, encrypted ones `.cast.age`."""

from __future__ import annotations

import re
from pathlib import Path

from proxy.control.schema import Recording

RECORDING = re.compile(r"(?P<channel>[A-Za-z0-9_-]+\.\d+)\.cast(?P<age>\.age)?", re.ASCII)


def recordings_of(directory: Path, identifier: str) -> list[Recording]:
    """The recordings of the channel with this id, or of all channels of the flow with this id, in order."""
    if re.fullmatch(r"[A-Za-z0-9_.-]+", identifier, re.ASCII) is None:
        return []
    found = []
    for path in directory.glob(f"{identifier}.*"):
        parts = RECORDING.fullmatch(path.name)
        if parts is None or identifier not in (parts["channel"], parts["channel"].rpartition(".")[0]):
            continue
        found.append(
            Recording(
                name=path.name,
                tenant=directory.name,
                channel_id=parts["channel"],
                size=path.stat().st_size,
                is_encrypted=parts["age"] is not None,
            )
        )
    return sorted(found, key=lambda each: int(each.channel_id.rpartition(".")[2]))
