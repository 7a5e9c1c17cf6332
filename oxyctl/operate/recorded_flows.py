"""Where a proxy keeps its flow records, to read them when it is not running."""

from __future__ import annotations

from pathlib import Path

from proxy.control.recordings import RecordedSessions
from proxy.control.store import RecordedFlows
from proxy.settings import DocumentError, load

SETTINGS, STORE = "proxy.yaml", "flows.db"  # what it is called by default


def recordings_beside(control: str | Path) -> RecordedSessions | None:
    """The recordings of SSH sessions of that proxy: by its settings, if they are there."""
    home = Path(control).absolute().parent
    try:
        place = Path(load(home / SETTINGS).state) / "recordings"
    except (DocumentError, OSError):
        return None
    return RecordedSessions(place) if place.is_dir() else None


def recorded_beside(control: str | Path) -> RecordedFlows | None:
    """The flow log of the proxy whose control socket stands, or stood, there: by its settings, if they are there."""
    home = Path(control).absolute().parent
    path = home / STORE
    try:
        path = Path(load(home / SETTINGS).records.path)
    except (DocumentError, OSError):
        pass
    return RecordedFlows(path) if path.is_file() else None
