"""The SSH session recordings of a proxy that is not running."""

from __future__ import annotations

from pathlib import Path

from proxy.control.schema import Recording
from proxy.telemetry.recordings import recordings_of


class RecordedSessions:
    """The recordings of a proxy that is not running, with methods of `ControlClient`."""

    def __init__(self, directory: Path) -> None:
        """`directory`: where the recordings of all tenants are."""
        self._directory = directory

    def recordings(self, identifier: str, pairs: list[tuple[str, str]]) -> list[Recording]:
        """The recordings of a channel or of a flow."""
        return [found for each in self._of(pairs) for found in recordings_of(each, identifier)]

    def recording(self, found: Recording) -> bytes:
        """The content of a recording. Raises OSError."""
        return (self._directory / found.tenant / found.name).read_bytes()

    def _of(self, pairs: list[tuple[str, str]]) -> list[Path]:
        tenant = dict(pairs).get("tenant")
        directories = [each for each in self._directory.iterdir() if each.is_dir()] if self._directory.is_dir() else []
        return [each for each in directories if tenant in (None, each.name)]
