"""Keeps the bundles of a running lab up to date when authorities are created or rotated."""

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
    """The bundles of trusted certificates in a lab. `plan` returns the current plan."""

    def __init__(self, plan: Callable[[], Plan]) -> None:
        self._plan = plan
        self._task: asyncio.Task[None] | None = None
        self._seen: dict[str, list[tuple[int, int]]] = {}  # by bundle, its authorities' files as last added

    def follow(self) -> None:
        """Start to follow changes of authorities if the plan has bundles. Idempotent."""
        if self._plan().bundles and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._poll())

    async def _poll(self) -> None:
        """Poll: each round costs a stat(2) per authority."""
        while bundles := self._plan().bundles:
            for bundle in bundles:
                with contextlib.suppress(OSError):
                    self._refresh(bundle)
            await asyncio.sleep(EVERY_S)

    async def until_complete(self, node: str) -> None:
        """Return when the bundle of `node` has all its authorities' certificates. The caller sets the deadline."""
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
        """Add new certificates to the bundle. Returns whether it has those of all its authorities."""
        state = [_state(path) for path in bundle.authorities]
        if self._seen.get(bundle.path) != state and complete(bundle):
            self._seen[bundle.path] = state
        return self._seen.get(bundle.path) == state


def _state(path: str) -> tuple[int, int]:
    """Inode and modification time (ns) of a file, which change when it is replaced; zeros: no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns
