"""Opens the records of a proxy that is not running."""

from __future__ import annotations

from pathlib import Path

from proxy.control.recordings import RecordedSessions
from proxy.control.store import RecordedFlows
from proxy.settings import DocumentError, load

SETTINGS, STORE = "proxy.yaml", "flows.db"  # default names


def recorded_sessions_of(control: str | Path) -> RecordedSessions | None:
    """The SSH recordings of the proxy with this control socket, found by its settings; None: there are none."""
    home = Path(control).absolute().parent
    try:
        directory = Path(load(home / SETTINGS).state) / "recordings"
    except (DocumentError, OSError):
        return None
    return RecordedSessions(directory) if directory.is_dir() else None


def recorded_flows_of(control: str | Path) -> RecordedFlows | None:
    """The flow log of the proxy with this control socket, found by its settings or its default name; None: none."""
    home = Path(control).absolute().parent
    path = home / STORE
    try:
        path = Path(load(home / SETTINGS).records.path)
    except (DocumentError, OSError):
        pass
    return RecordedFlows(path) if path.is_file() else None
