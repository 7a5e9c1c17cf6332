"""Interfaces that `lab apply` adds while a capture runs: they are captured from then on."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence

from oxyctl.capture.opener import open_sockets
from oxyctl.capture.ring import Ring
from oxyctl.capture.targets import Interface, resolve, tenants
from oxyctl.errors import OxyctlError
from oxyctl.supervise.state import LabDirectory

CHECK_INTERVAL_S = 0.25
Version = tuple[int, int] | None


def plan_version(lab: LabDirectory) -> Version:
    """A value that differs after each change of a running lab; None: there is no plan (any more)."""
    try:
        stat = (lab.path / "plan.json").stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino


class InterfaceWatcher:
    """Checks from time to time whether the lab has changed, and calls `add` for new interfaces of `targets`."""

    def __init__(
        self,
        lab: LabDirectory,
        targets: Sequence[str],
        rings: Sequence[Ring],
        since: Version,
        add: Callable[[Interface, socket.socket], None],
    ) -> None:
        """`since`: the version of the plan that `rings` belong to."""
        self._lab, self._targets, self._rings, self._version, self._add = lab, targets, rings, since, add
        self._next = 0.0

    def tick(self) -> float:
        """Check if it is time. Returns the seconds until the next check."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + CHECK_INTERVAL_S
            version = plan_version(self._lab)
            if version is not None and version != self._version:
                self._version = version
                with contextlib.suppress(OxyctlError):  # the lab is ending, or the target is gone
                    self._check()
        return self._next - now

    def _check(self) -> None:
        plan = self._lab.read_plan()
        if plan is None:
            return
        known = {_identity(ring.interface) for ring in self._rings if ring.is_bound}
        for interface, sock in open_sockets(self._lab, resolve(self._targets, plan), tenants(plan)):
            if _identity(interface) in known:
                sock.close()
            else:
                self._add(interface, sock)


def _identity(interface: Interface) -> tuple[str, int]:
    """Distinguishes a replaced node: its interfaces have the same names in another namespace."""
    return interface.title, interface.namespace
