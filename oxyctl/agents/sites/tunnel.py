"""One end of a tunnel: its two sides and its prober, opened together and closed together."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from oxyctl.agents.sites.config import TunnelConfig
from oxyctl.agents.sites.device import DeviceSide
from oxyctl.agents.sites.gre import GreSide, GreSocket
from oxyctl.agents.sites.gue import GueSide, GueSocket
from oxyctl.agents.sites.prober import Prober
from oxyctl.agents.sites.side import Side
from proxy.errors import DropReason
from proxy.wire import ip

Identity = tuple[int, int]  # of a namespace: device and inode number, whichever file refers to it
Watch = Callable[[int, Callable[[], None]], None]


def identity_of(netns: str) -> Identity:
    """The identity of the namespace at the path `netns`. OSError: it does not exist."""
    stat = os.stat(netns)
    return stat.st_dev, stat.st_ino


class Sockets:
    """The raw and UDP sockets that tunnels share: one for each local address or endpoint in each namespace."""

    def __init__(self, watch: Watch, unwatch: Callable[[int], None]) -> None:
        self.drops: defaultdict[str, Counter[DropReason]] = defaultdict(Counter)  # by namespace; packets of no tunnel
        self._open: dict[tuple[Identity, str, str], GreSocket | GueSocket] = {}
        self._watch, self._unwatch = watch, unwatch

    def gre(self, netns: str, local: str) -> GreSocket:
        """The socket for GRE at `local`, opened on first use. OSError: it cannot be opened."""
        key = (identity_of(netns), "gre", local)
        if key not in self._open:
            self._add(key, GreSocket(netns, local, self.drops[netns]))
        opened = self._open[key]
        assert isinstance(opened, GreSocket)
        return opened

    def gue(self, netns: str, local: str) -> GueSocket:
        """The socket for GUE at `local`, opened on first use. OSError: it cannot be opened."""
        key = (identity_of(netns), "gue", local)
        if key not in self._open:
            self._add(key, GueSocket(netns, local, self.drops[netns]))
        opened = self._open[key]
        assert isinstance(opened, GueSocket)
        return opened

    def _add(self, key: tuple[Identity, str, str], opened: GreSocket | GueSocket) -> None:
        self._open[key] = opened
        self._watch(opened.fd, opened.receive)

    def close_unused(self) -> None:
        """Close the sockets that no tunnel uses."""
        for key, opened in list(self._open.items()):
            if not opened.is_used:
                del self._open[key]
                self._unwatch(opened.fd)
                opened.close()


class Tunnel:
    """One end. OSError: it cannot be opened, and nothing remains open."""

    def __init__(self, config: TunnelConfig, sockets: Sockets, on_health: Callable[[dict[str, Any]], None]) -> None:
        self.config, self.namespace = config, identity_of(config.netns)
        self.drops: Counter[DropReason] = Counter()
        self.device: DeviceSide | None = None
        self.prober: Prober | None = None
        self._sides: list[Side] = []
        try:
            for kind in config.sides:
                self._sides.append(self._open(kind, sockets))
            if config.probe is not None:
                self.prober = Prober(config.netns, config.probe, on_health)
        except BaseException:
            self.close()
            sockets.close_unused()
            raise
        if self._sides:
            near, far = self._sides
            near.other, far.other = far, near

    def _open(self, kind: str, sockets: Sockets) -> Side:
        config = self.config
        if kind == "device":
            assert config.device is not None
            self.device = DeviceSide(config.netns, config.device, self.drops)
            return self.device
        if kind == "gre":
            assert config.gre is not None
            return GreSide(config.gre, config.mtu, sockets.gre(config.netns, config.gre.local), self.drops)
        assert config.gue is not None
        owner = sockets.gue(config.netns, config.gue.local)
        # an end that leads from GRE to the proxy has GRE's MTU
        return GueSide(config.gue, ip.MAX_PACKET if config.gre else config.mtu, owner, self.drops)

    def matches(self, config: TunnelConfig) -> bool:
        """Whether `config` describes what is already open."""
        return msgspec.structs.replace(config, far_end=self.config.far_end) == self.config

    def adopt(self, config: TunnelConfig) -> None:
        """Take over `config`; if the far end was restarted, probe it from scratch."""
        if self.prober is not None and config.far_end != self.config.far_end:
            self.prober.reset()
        self.config = config

    def status(self) -> dict[str, Any]:
        """Its counters, of inner packets and their bytes; `sent` means towards the proxy."""
        near, far = self._sides or (None, None)
        return {
            "node": self.config.node,
            "end": self.config.end,
            "kind": "+".join(self.config.sides),
            "sent": _count(far),
            "received": _count(near),
            "drops": dict(self.drops),
            "health": None if self.prober is None else self.prober.status(),
        }

    def close(self) -> None:
        """Close what belongs to this end only; shared sockets stay open until `Sockets.close_unused`."""
        if self.prober is not None:
            self.prober.close()
        for side in self._sides:
            side.close()


def _count(side: Side | None) -> dict[str, int]:
    return {"packets": side.packets if side else 0, "bytes": side.bytes if side else 0}
