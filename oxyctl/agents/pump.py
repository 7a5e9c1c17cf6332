"""Packets between a TUN device and its tunnel: one buffer, one read and one write each, nothing examined.

With offload a datagram is what the device reads and writes: a virtio-net header of 10 bytes and a packet of up to
64 KB, neither segmented nor checksummed. In a bulk transfer one pass of the loop thus moves 50 packets' worth of data.
"""

from __future__ import annotations

import errno
import os

from oxyctl.agents.client import Client
from proxy.device.seqpacket import is_end_of_file

BUDGET = 64  # packets per readiness event, so that no client starves another
SINGLES = 4  # visits limited to one read, after a visit that found one packet: a read that finds none costs as much
MAX_DATAGRAM = 10 + 65_575  # header, and the longest IPv6 packet
CONTROL = 0x7B  # '{': a control datagram, not a packet

buffer = bytearray(MAX_DATAGRAM + 1)  # one byte more than allowed, to detect longer ones
_view, _vector = memoryview(buffer), [buffer]


class TunnelLost(Exception):
    """The proxy has closed its end of the tunnel."""


def upload(client: Client) -> bool:
    """Device to tunnel, until the device is empty or the budget is spent; False: the tunnel has no room.

    A packet that did not fit is kept in `client.waiting`. Read no more until `resume` has sent it: the device queues.
    """
    assert client.tunnel is not None
    tun, read, send = client.tun, os.readv, client.tunnel.send
    sent, budget = 0, BUDGET
    if client.single_uploads:
        client.single_uploads, budget = client.single_uploads - 1, 1
    try:
        for _ in range(budget):
            length = read(tun, _vector)
            try:
                send(_view[:length])
            except BlockingIOError:
                client.waiting = bytes(_view[:length])
                return False
            sent += 1
    except BlockingIOError:
        if sent == 1:
            client.single_uploads = SINGLES
    except OSError as error:
        _handle_send_error(client, error)
    finally:
        client.sent += sent
    return True


def resume(client: Client) -> bool:
    """Send the packet that waited. Returns whether the tunnel has room again."""
    assert client.tunnel is not None
    if client.waiting is not None:
        try:
            client.tunnel.send(client.waiting)
            client.sent += 1
        except BlockingIOError:
            return False
        except OSError as error:
            _handle_send_error(client, error)
        client.waiting = None
    return True


def _handle_send_error(client: Client, error: OSError) -> None:
    if error.errno != errno.EMSGSIZE:  # longer than the send buffer: only this packet is lost
        raise TunnelLost(error.strerror) from None
    client.lost += 1


def download(client: Client) -> None:
    """Tunnel to device, until the tunnel is empty or the budget is spent. TunnelLost: the proxy has closed it."""
    assert client.tunnel is not None
    tun, receive, write = client.tun, client.tunnel.recv_into, os.write
    received, budget = 0, BUDGET
    if client.single_downloads:
        client.single_downloads, budget = client.single_downloads - 1, 1
    try:
        for _ in range(budget):
            length = receive(buffer)
            if length == 0 and is_end_of_file(client.tunnel):
                raise TunnelLost("closed by the proxy")
            if length == 0 or length > MAX_DATAGRAM or buffer[0] == CONTROL:
                client.refused += 1
                continue
            try:
                write(tun, _view[:length])
                received += 1
            except OSError:  # EINVAL: the kernel rejects it as not a packet
                client.refused += 1
    except BlockingIOError:
        if received == 1:
            client.single_downloads = SINGLES
    except OSError as error:
        raise TunnelLost(error.strerror) from None
    finally:
        client.received += received
