"""The bundles of a running lab: they follow authorities that are made, or rotated, while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from oxyctl.build.trust import complete
from oxyctl.plan.steps import Bundle, Plan

EVERY_S = 0.2
PAUSE_S = 0.02  # between polls while a request waits


class Trust:
    """The authorities that nodes of a lab trust. `plan` returns the current plan."""

    def __init__(self, plan: Callable[[], Plan]) -> None:
        self._plan = plan
        self._following: asyncio.Task[None] | None = None
        self._seen: dict[str, list[tuple[int, int]]] = {}  # by bundle: its authorities' files, as they were added

    def begin(self) -> None:
        """From now on what changes is added, as long as there are bundles; nothing happens twice."""
        if self._plan().bundles and (self._following is None or self._following.done()):
            self._following = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        """A look costs a stat(2) for each authority."""
        while bundles := self._plan().bundles:
            for bundle in bundles:
                with contextlib.suppress(OSError):
                    self._refresh(bundle)
            await asyncio.sleep(EVERY_S)

    async def until_whole(self, node: str) -> None:
        """Return when `node` trusts all that it is to trust. The caller sets the deadline."""
        bundle = self._bundle_of(node)
        while bundle is not None:
            if self._refresh(bundle):
                return
            await asyncio.sleep(PAUSE_S)

    def _bundle_of(self, node: str) -> Bundle | None:
        plan = self._plan()
        if not plan.bundles:
            return None
        path = next((each.bundle for each in plan.namespaces if each.node == node), None)
        return next((bundle for bundle in plan.bundles if bundle.path == path), None)

    def _refresh(self, bundle: Bundle) -> bool:
        """Whether it holds everything."""
        state = [_state(path) for path in bundle.authorities]
        if self._seen.get(bundle.path) != state and complete(bundle):
            self._seen[bundle.path] = state
        return self._seen.get(bundle.path) == state


def _state(path: str) -> tuple[int, int]:
    """Identifies the file, and changes when it is replaced; zeros if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns
