"""Packet sockets of many namespaces in one process: a child enters the lab, opens them, and passes them out.

The capturing process itself stays where it is: it keeps the files, the terminal and the user of its caller.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import msgspec

from oxyctl.capture.targets import Interface, Target
from oxyctl.errors import ExitCode, LabNotFound, NothingMatched, OxyctlError
from oxyctl.net.namespaces import Namespaces
from oxyctl.operate.enter import enter_lab
from oxyctl.supervise.state import LabDirectory, State
from proxy.device.tun import OFF_RAMP_NAMES
from proxy.settings import suggest

SIOCGIFMTU, SIOCGIFHWADDR = 0x8921, 0x8927  # linux/sockios.h
MESSAGE_BYTES = 64 << 10
SPARE_DESCRIPTORS = 64

Opened = tuple[Interface, socket.socket]


def open_sockets(lab: LabDirectory, targets: Sequence[Target], tenants: dict[str, str]) -> list[Opened]:
    """A packet socket for each interface, not yet bound. LabNotFound, NothingMatched, OxyctlError."""
    state = lab.live_state()
    if state is None:
        raise LabNotFound(f"lab '{lab.name}' has just ended")
    _allow_descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            pid = os.fork()
            if pid == 0:
                _serve(theirs, lab, state, targets)
        opened: list[Opened] = []
        try:
            opened += _receive(ours, tenants)
        except BaseException:
            for _, sock in opened:
                sock.close()
            raise
        finally:
            os.waitpid(pid, 0)
    return opened


def _allow_descriptors() -> None:
    """Raise the limit: a lab of 200 nodes has more interfaces than the 1024 descriptors of a new process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _receive(channel: socket.socket, tenants: dict[str, str]) -> Iterator[Opened]:
    while True:
        raw, fds, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 1)
        if not raw:
            raise OxyctlError("the lab ended while it was being entered")
        message: dict[str, Any] = msgspec.json.decode(raw)
        if "error" in message:
            kind = NothingMatched if message["code"] == ExitCode.NOTHING_MATCHED else OxyctlError
            raise kind(message["error"])
        if not fds:
            return
        interface = Interface(**message)._replace(tenant=tenants.get(message["node"]))
        yield interface, socket.socket(fileno=fds[0])


def _serve(channel: socket.socket, lab: LabDirectory, state: State, targets: Sequence[Target]) -> NoReturn:
    """Run in the child: all results go through `channel`."""
    try:
        enter_lab(state)
        namespaces = Namespaces(lab.namespaces)
        for target in targets:
            namespaces.enter(target.node)
            number = namespaces.path(target.node).stat().st_ino
            for name in _interfaces(target):
                _send_socket(channel, target.node, name, number)
        channel.send(b"{}")
    except (OxyctlError, OSError) as error:
        code = error.exit_code if isinstance(error, OxyctlError) else ExitCode.FAILED
        with contextlib.suppress(OSError):
            channel.send(msgspec.json.encode({"error": str(error), "code": code}))
    finally:
        os._exit(0)


def _interfaces(target: Target) -> list[str]:
    known = [name for _, name in socket.if_nameindex()]
    if target.interface is None:
        return [name for name in known if name != "lo" and not name.startswith(OFF_RAMP_NAMES)]
    if target.interface not in known:
        raise NothingMatched(
            f"node '{target.node}' has no interface '{target.interface}'{suggest(target.interface, known)}"
        )
    return [target.interface]


def _send_socket(channel: socket.socket, node: str, name: str, namespace: int) -> None:
    """Open and send the sockets. Protocol 0: they receive no packet before they are bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        hardware = _ioctl(sock, SIOCGIFHWADDR, name, "=16xH")
        mtu = _ioctl(sock, SIOCGIFMTU, name, "=16xi")
    interface = Interface(node, name, hardware, mtu, namespace=namespace)
    kind = socket.SOCK_RAW if interface.is_ethernet else socket.SOCK_DGRAM  # without the header of other links
    try:
        with socket.socket(socket.AF_PACKET, kind, 0) as sock:
            socket.send_fds(channel, [msgspec.json.encode(interface._asdict())], [sock.fileno()])
    except OSError as error:
        raise OxyctlError(f"cannot capture at {interface.title}: {error.strerror}") from None


def _ioctl(sock: socket.socket, request: int, name: str, layout: str) -> int:
    reply = fcntl.ioctl(sock, request, struct.pack("16s24x", name.encode()))
    return int(struct.unpack_from(layout, reply)[0])
