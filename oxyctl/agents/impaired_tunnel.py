"""A tunnel with an impairment: each direction between device and tunnel passes through a line."""

from __future__ import annotations

import os

from oxyctl.agents.client import Client
from oxyctl.agents.line import Line
from oxyctl.agents.pump import BUDGET, CONTROL, MAX_DATAGRAM, TunnelLost, buffer
from oxyctl.net.impairment import Impairment, seed
from proxy.device.seqpacket import is_end_of_file

_view, _vector = memoryview(buffer), [buffer]


class ImpairedTunnel:
    """The packets held in both directions of one client's tunnel."""

    def __init__(self, client: Client, impairment: Impairment) -> None:
        start = seed(f"{client.name}:tunnel")
        self._client = client
        self._up, self._down = Line(impairment, start), Line(impairment, start + 1)

    def change(self, impairment: Impairment) -> None:
        """Apply this impairment to packets from now on."""
        self._up.change(impairment)
        self._down.change(impairment)

    def upload(self, now: float) -> None:
        """Read the packets that programs have sent, until the device is empty or the budget is spent."""
        try:
            for _ in range(BUDGET):
                length = os.readv(self._client.tun, _vector)
                self._up.push(bytes(_view[:length]), now)
        except BlockingIOError:
            pass

    def download(self, now: float) -> None:
        """Read the packets that the proxy has sent, within the budget. TunnelLost: the proxy has closed the tunnel."""
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
        """Send the packets that are due, and count as lost those that the tunnel has no room for; returns when the next
        packet is due, None if none is held."""
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
            except OSError:  # EINVAL: the kernel rejects it as not a packet
                client.refused += 1
        return min((due for due in (self._up.next_due, self._down.next_due) if due is not None), default=None)
