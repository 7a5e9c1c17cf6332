"""Changes that the kernel off-ramp makes to its namespace: listed in advance, recorded in a file, undone at stop."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from proxy.device.interface import set_sysctl
from proxy.errors import ProxyError

log = logging.getLogger(__name__)


class Change(msgspec.Struct, frozen=True):
    """A sysctl with its required value, and why."""

    name: str  # net/ipv4/conf/eth0/forwarding
    value: int
    reason: str

    @property
    def old(self) -> int | None:
        """The current value, or None if this kernel has no such sysctl."""
        try:
            return int(Path("/proc/sys", self.name).read_text())
        except (OSError, ValueError):
            return None

    def __str__(self) -> str:
        return f"sysctl {self.name.replace('/', '.')}: {self.old} -> {self.value} ({self.reason})"


def needed(interfaces: Iterable[str], *, has_on_ramps: bool) -> list[Change]:
    """The changes needed for forwarding between our devices and these interfaces."""
    changes = []
    for name in interfaces:
        changes.append(Change(f"net/ipv4/conf/{name}/forwarding", 1, "replies that arrive there are forwarded"))
        changes.append(_ipv6_forwarding(name))
    for family in ("ipv4", "ipv6"):
        reason = "the kernel's ICMP errors go back to the tenant that they are for"
        changes.append(Change(f"net/{family}/fwmark_reflect", 1, reason))
    if has_on_ramps:
        changes.append(Change("net/netfilter/nf_conntrack_acct", 1, "the kernel counts for interface on-ramps"))
    return [change for change in dict.fromkeys(changes) if change.old is not None and change.old != change.value]


def _ipv6_forwarding(interface: str) -> Change:
    """IPv6 forwarding for one interface (Linux 6.17), else for all, which then ignore router advertisements."""
    own = Change(f"net/ipv6/conf/{interface}/force_forwarding", 1, "replies that arrive there are forwarded")
    if own.old is not None:
        return own
    return Change(
        "net/ipv6/conf/all/forwarding", 1, "IPv6 is forwarded; interfaces then accept no router advertisements"
    )


class Changes:
    """The changes made, kept in a file until they are undone: after a kill, the next start undoes them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._old: dict[str, int] = {}

    def adopt(self) -> bool:
        """Take over the changes of a killed proxy, to be undone with our own. Returns whether there are any."""
        try:
            self._old = json.loads(self._path.read_text())
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            log.warning("cannot read what an earlier proxy changed: %s: %s", self._path, error)
        log.warning("an earlier proxy was killed: taking over what it has left")
        return True

    def make(self, changes: Iterable[Change]) -> None:
        """Make the changes. Raises ProxyError if one is refused. The file is written even if there are none, so that
        the next start after a kill removes our table."""
        self._save()
        for change in changes:
            old = change.old
            if old is None or old == change.value:
                continue
            self._old.setdefault(change.name, old)
            self._save()
            if not set_sysctl(change.name, change.value):
                raise ProxyError(f"the kernel off-ramp was not permitted to set {change.name.replace('/', '.')}")
            log.info("kernel off-ramp: %s", f"{change.name.replace('/', '.')}: {old} -> {change.value}")

    def undo(self) -> None:
        """Restore all old values."""
        for name, old in reversed(self._old.items()):
            set_sysctl(name, old)
        self._old = {}
        self._path.unlink(missing_ok=True)

    def _save(self) -> None:
        new = self._path.with_name(self._path.name + ".new")
        try:
            new.write_text(json.dumps(self._old))
            os.replace(new, self._path)
        except OSError as error:
            raise ProxyError(f"cannot record the changes: {new}: {error.strerror or error}") from error
