"""`oxyctl flows watch` in a terminal: live flows as in a process monitor, with keys to sort them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oxyctl.cli.screen import draw, full_screen, key_within

if TYPE_CHECKING:
    from proxy.control.client import ControlClient

Pairs = list[tuple[str, str]]


def monitor(client: ControlClient, pairs: Pairs, interval_s: float) -> None:
    """Show the matching live flows, until `q` or Ctrl-C. `pairs`: the filters of the query."""
    import shutil

    from oxyctl.render.monitor import SAMPLE_FLOWS, SORTS, Monitor, screen

    flow_monitor, sort, orders = Monitor(), SORTS[0], {each.key: each for each in SORTS}
    with full_screen():
        while True:
            query = [*pairs, ("scope", "live"), ("sort", sort.query), ("limit", str(SAMPLE_FLOWS))]
            answer = client.flows(query)
            rows = flow_monitor.update(time.monotonic(), answer.items, sort)
            size = shutil.get_terminal_size((100, 24))
            draw(screen(rows, sort, width=size.columns, height=size.lines, is_truncated=answer.truncated))
            key = key_within(interval_s)
            if key == "q":
                return
            sort = orders.get(key, sort)
