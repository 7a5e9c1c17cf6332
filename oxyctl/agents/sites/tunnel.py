"""One end of a tunnel: its two legs and its prober, opened together and closed together."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from oxyctl.agents.sites.config import TunnelConfig
from oxyctl.agents.sites.device import DeviceLeg
from oxyctl.agents.sites.gre import GreLeg, GreSocket
from oxyctl.agents.sites.gue import GueLeg, GueSocket
from oxyctl.agents.sites.leg import Leg
from oxyctl.agents.sites.prober import Prober
from proxy.errors import DropReason
from proxy.wire import ip

Identity = tuple[int, int]  # of a namespace: its device and inode, whatever file stands for it
Watch = Callable[[int, Callable[[], None]], None]


def identity_of(netns: str) -> Identity:
    """OSError: there is none."""
    found = os.stat(netns)
    return found.st_dev, found.st_ino


class Sockets:
    """Raw and UDP sockets that tunnels share: one for each local address, or endpoint, of each namespace."""

    def __init__(self, watch: Watch, unwatch: Callable[[int], None]) -> None:
        self.drops: defaultdict[str, Counter[DropReason]] = defaultdict(Counter)  # of no tunnel, by namespace
        self._open: dict[tuple[Identity, str, str], GreSocket | GueSocket] = {}
        self._watch, self._unwatch = watch, unwatch

    def gre(self, netns: str, local: str) -> GreSocket:
        """OSError: it cannot be opened."""
        key = (identity_of(netns), "gre", local)
        if key not in self._open:
            self._add(key, GreSocket(netns, local, self.drops[netns]))
        found = self._open[key]
        assert isinstance(found, GreSocket)
        return found

    def gue(self, netns: str, local: str) -> GueSocket:
        """OSError: it cannot be opened."""
        key = (identity_of(netns), "gue", local)
        if key not in self._open:
            self._add(key, GueSocket(netns, local, self.drops[netns]))
        found = self._open[key]
        assert isinstance(found, GueSocket)
        return found

    def _add(self, key: tuple[Identity, str, str], opened: GreSocket | GueSocket) -> None:
        self._open[key] = opened
        self._watch(opened.fd, opened.receive)

    def close_unused(self) -> None:
        """Close those that no tunnel is left for."""
        for key, opened in list(self._open.items()):
            if not opened.is_used:
                del self._open[key]
                self._unwatch(opened.fd)
                opened.close()


class Tunnel:
    """OSError: it cannot be opened, and nothing of it is left open."""

    def __init__(self, config: TunnelConfig, sockets: Sockets, tell: Callable[[dict[str, Any]], None]) -> None:
        self.config, self.namespace = config, identity_of(config.netns)
        self.drops: Counter[DropReason] = Counter()
        self.device: DeviceLeg | None = None
        self.prober: Prober | None = None
        self._legs: list[Leg] = []
        try:
            for kind in config.legs:
                self._legs.append(self._open(kind, sockets))
            if config.probe is not None:
                self.prober = Prober(config.netns, config.probe, tell)
        except BaseException:
            self.close()
            sockets.close_unused()
            raise
        if self._legs:
            near, far = self._legs
            near.other, far.other = far, near

    def _open(self, kind: str, sockets: Sockets) -> Leg:
        config = self.config
        if kind == "device":
            assert config.device is not None
            self.device = DeviceLeg(config.netns, config.device, self.drops)
            return self.device
        if kind == "gre":
            assert config.gre is not None
            return GreLeg(config.gre, config.mtu, sockets.gre(config.netns, config.gre.local), self.drops)
        assert config.gue is not None
        owner = sockets.gue(config.netns, config.gue.local)
        # between GRE and the proxy, the MTU is GRE's
        return GueLeg(config.gue, ip.MAX_PACKET if config.gre else config.mtu, owner, self.drops)

    def is_as(self, config: TunnelConfig) -> bool:
        """Whether nothing has to be opened anew."""
        return msgspec.structs.replace(config, far_end=self.config.far_end) == self.config

    def adopt(self, config: TunnelConfig) -> None:
        """The same tunnel, to a far end that may be another one by now."""
        if self.prober is not None and config.far_end != self.config.far_end:
            self.prober.begin_again()
        self.config = config

    def status(self) -> dict[str, Any]:
        """Packets and bytes of inner packets; `sent`: towards the proxy."""
        near, far = self._legs or (None, None)
        return {
            "node": self.config.node,
            "end": self.config.end,
            "kind": "+".join(self.config.legs),
            "sent": _count(far),
            "received": _count(near),
            "drops": dict(self.drops),
            "health": None if self.prober is None else self.prober.status(),
        }

    def close(self) -> None:
        """The sockets that it shared stay, until they are asked for whom they are open."""
        if self.prober is not None:
            self.prober.close()
        for leg in self._legs:
            leg.close()


def _count(leg: Leg | None) -> dict[str, int]:
    return {"packets": leg.packets if leg else 0, "bytes": leg.bytes if leg else 0}
