"""A tunnel with an impairment: packets go through two lines on their way between device and tunnel."""

from __future__ import annotations

import os

from oxyctl.agents.client import Client
from oxyctl.agents.line import Line
from oxyctl.agents.pump import BUDGET, CONTROL, MAX_DATAGRAM, TunnelLost, buffer
from oxyctl.net.impairment import Impairment, seed
from proxy.device.seqpacket import is_end_of_file

_view, _vector = memoryview(buffer), [buffer]


class Detour:
    """What is under way in both directions of one client's tunnel."""

    def __init__(self, client: Client, impairment: Impairment) -> None:
        start = seed(f"{client.name}:tunnel")
        self._client = client
        self._up, self._down = Line(impairment, start), Line(impairment, start + 1)

    def change(self, impairment: Impairment) -> None:
        """From now on."""
        self._up.change(impairment)
        self._down.change(impairment)

    def upload(self, now: float) -> None:
        """Take what programs have sent, until there is no more or the budget is spent."""
        try:
            for _ in range(BUDGET):
                length = os.readv(self._client.tun, _vector)
                self._up.push(bytes(_view[:length]), now)
        except BlockingIOError:
            pass

    def download(self, now: float) -> None:
        """Take what the proxy has sent. TunnelLost when it has hung up."""
        tunnel = self._client.tunnel
        assert tunnel is not None
        try:
            for _ in range(BUDGET):
                length = tunnel.recv_into(buffer)
                if length == 0 and is_end_of_file(tunnel):
                    raise TunnelLost("closed by the proxy")
                if length == 0 or length > MAX_DATAGRAM or buffer[0] == CONTROL:
                    self._client.refused += 1
                    continue
                self._down.push(bytes(_view[:length]), now)
        except BlockingIOError:
            pass
        except OSError as error:
            raise TunnelLost(error.strerror) from None

    def write_due(self, now: float) -> float | None:
        """Packets whose time has come go on, or are lost for want of a tunnel with room; when the next one is due."""
        client = self._client
        for packet in self._up.due(now):
            if client.tunnel is None:
                client.lost += 1
                continue
            try:
                client.tunnel.send(packet)
                client.sent += 1
            except OSError:
                client.lost += 1
        for packet in self._down.due(now):
            try:
                os.write(client.tun, packet)
                client.received += 1
            except OSError:  # EINVAL: the kernel takes this for no packet
                client.refused += 1
        return min((due for due in (self._up.next_due, self._down.next_due) if due is not None), default=None)
