"""Reports a capture's progress: a live table on a terminal, occasional lines elsewhere, and a summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from oxyctl.capture.ring import Ring
from oxyctl.capture.session import Session
from oxyctl.render.units import bytes_text, count_text, duration_text

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

TERMINAL_EVERY_S, LINE_EVERY_S = 0.25, 10.0
MAX_ROWS = 16


class Report:
    """Reports on `session` on standard error. A quiet one reports the start and the end."""

    def __init__(self, session: Session, where: str, *, live: bool, quiet: bool) -> None:
        self._session, self._where, self._quiet = session, where, quiet
        self._start = time.monotonic()
        self._live: Live | None = _live() if live and not quiet and sys.stderr.isatty() else None
        self._every = TERMINAL_EVERY_S if self._live else LINE_EVERY_S
        self._next = self._start + self._every
        self._last_packets = 0

    def begin(self) -> None:
        """Print what is captured, and where it is written."""
        names = [ring.interface.title for ring in self._session.rings]
        title = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        _print_stderr(f"capturing at {title}{self._where}; Ctrl-C stops")
        if self._live:
            self._live.start()

    def tick(self) -> float | None:
        """Print a report if one is due; returns the seconds until the next one, None if there is none."""
        if self._quiet:
            return None
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every
            for ring in self._session.rings:
                ring.count()
            self._print_progress()
        return self._next - now

    def end(self) -> None:
        """Remove the table; `lines` prints the final numbers."""
        if self._live:
            self._live.stop()

    def _print_progress(self) -> None:
        if self._live:
            self._live.update(_table(self._session, time.monotonic() - self._start), refresh=True)
        elif (packets := sum(self._session.delivered)) != self._last_packets:
            self._last_packets = packets
            _print_stderr(total(self._session))


def total(session: Session) -> str:
    """All interfaces in one line."""
    packets, dropped = sum(session.delivered), sum(ring.dropped for ring in session.rings)
    return f"{count_text(packets, 'packet')}, {bytes_text(sum(session.bytes))}, {dropped} dropped"


def lines(session: Session) -> list[str]:
    """One line for each interface that had packets, and one for all."""
    busy = [ring for ring in session.rings if session.delivered[ring.number] or ring.dropped]
    width = max((len(ring.interface.title) for ring in busy), default=0)
    rows = [f"  {ring.interface.title:{width}}  {_counts(session, ring)}" for ring in busy]
    if any(ring.dropped for ring in session.rings):
        rows.append("  dropped: packets arrived faster than they could be written; use --filter or --snaplen 128")
    return [total(session), *(rows if len(session.rings) > 1 or len(rows) > 1 else [])]


def items(session: Session) -> list[dict[str, object]]:
    """The counters of each interface, for programs."""
    return [
        {
            "node": ring.interface.node,
            "interface": ring.interface.name,
            "tenant": ring.interface.tenant,
            "packets": session.delivered[ring.number],
            "bytes": session.bytes[ring.number],
            "dropped": ring.dropped,
        }
        for ring in session.rings
    ]


def _counts(session: Session, ring: Ring) -> str:
    packets, size = session.delivered[ring.number], bytes_text(session.bytes[ring.number])
    return f"{count_text(packets, 'packet')}, {size}, {ring.dropped} dropped"


def _live() -> Live:
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(stderr=True), auto_refresh=False, transient=True)


def _table(session: Session, elapsed_s: float) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("INTERFACE")
    for name in ("PACKETS", "BYTES", "DROPPED"):
        table.add_column(name, justify="right")
    for ring in _busiest(session):
        size = bytes_text(session.bytes[ring.number])
        table.add_row(ring.interface.title, str(session.delivered[ring.number]), size, str(ring.dropped))
    dropped = sum(ring.dropped for ring in session.rings)
    after = duration_text(elapsed_s * 1000)
    table.add_row(f"all, {after}", str(sum(session.delivered)), bytes_text(sum(session.bytes)), str(dropped))
    return table


def _busiest(session: Session) -> Sequence[Ring]:
    """The busiest interfaces, as many as fit the screen, in their original order."""
    most = sorted(session.rings, key=lambda ring: -session.delivered[ring.number])[:MAX_ROWS]
    return sorted(most, key=lambda ring: ring.number)


def _print_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
