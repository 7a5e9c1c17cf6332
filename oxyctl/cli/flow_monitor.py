"""`oxyctl flows watch` in a terminal: live flows like a process monitor, with keys that sort."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oxyctl.cli.screen import draw, full_screen, key_within

if TYPE_CHECKING:
    from proxy.control.client import ControlClient

Pairs = list[tuple[str, str]]


def monitor(client: ControlClient, pairs: Pairs, interval_s: float) -> None:
    """Show the live flows that match, until `q` or Ctrl-C. `pairs`: the filters of the query."""
    import shutil

    from oxyctl.render.monitor import SAMPLED, SORTS, Monitor, screen

    shown, sort, orders = Monitor(), SORTS[0], {each.key: each for each in SORTS}
    with full_screen():
        while True:
            wanted = [*pairs, ("scope", "live"), ("sort", sort.query), ("limit", str(SAMPLED))]
            answer = client.flows(wanted)
            rows = shown.take(time.monotonic(), answer.items, sort)
            size = shutil.get_terminal_size((100, 24))
            draw(screen(rows, sort, width=size.columns, height=size.lines, is_truncated=answer.truncated))
            key = key_within(interval_s)
            if key == "q":
                return
            sort = orders.get(key, sort)
