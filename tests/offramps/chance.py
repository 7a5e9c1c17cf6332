"""Conversations drawn by chance between two hosts: what each side saw, as text that does not depend on timing.

A conversation takes turns, so that what must be seen follows from its steps alone; many of them run at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.offramps.kernel_scene import (
    CLIENT,
    FAMILIES,
    ORIGIN,
    SILENT,
    SMALL,
    UNREACHABLE,
    Net,
    read_all,
    reset,
    unsent,
)
from tests.running import until

PATIENCE_S = 20
FIRST_PORT = 20_000
RECEIVE_ERRORS = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
KINDS = ("talk", "talk", "talk", "again", "refused", "unreachable", "silent", "datagrams", "refused datagrams",
         "unheard", "ping")  # fmt: skip
ENDS = ("close", "close", "reset", "reset in flight", "unread", "at once")
SIZES = (0, 1, 1, 100, 1447, 1448, 1449, 5000, 65_535, 300_000)


@dataclass
class Conversation:
    """One client's port, and what is done with it. `sides`: 0 is the client, 1 the origin."""

    number: int
    version: int
    kind: str
    steps: list[tuple[Any, ...]]
    end: tuple[str, int]  # and by whom
    seen: list[str] = field(default_factory=list)
    address: str = ""
    port: int = 0  # of the origin
    sent: list[int] = field(default_factory=lambda: [0, 0])
    datagrams: list[int] = field(default_factory=lambda: [0, 0])
    resets: list[int] = field(default_factory=list)  # by whom, where it is held several times

    @property
    def source_port(self) -> int:
        return FIRST_PORT + self.number


def draw(seed: int, count: int) -> list[Conversation]:
    """So many conversations, the same for the same seed."""
    chance = random.Random(seed)
    return [_conversation(chance, number) for number in range(count)]


def _conversation(chance: random.Random, number: int) -> Conversation:
    version, kind = chance.choice((4, 6)), chance.choice(KINDS)
    steps: list[tuple[Any, ...]] = []
    open_sides = [0, 1]
    for _ in range(chance.randrange(6)):
        if not open_sides:
            break
        side = chance.choice(open_sides)
        step = chance.choice(("send", "send", "send", "fill", "urgent", "shut"))
        if step == "shut":
            open_sides.remove(side)
        steps.append((step, side, chance.choice(SIZES) or chance.randrange(1, 100_000)))
    end = chance.choice(ENDS)
    if len(open_sides) < 2:
        end = "close"
    ending = end, chance.randrange(2)
    made = Conversation(number, version, kind, steps, ending)
    if kind in ("talk", "again") and chance.random() < 0.3:
        made.address = SMALL[version]
    if kind in ("datagrams", "ping"):
        made.steps = [
            ("send", 0, chance.choice((0, 1, 100, 1400, 1473, 4000, 20_000))) for _ in range(chance.randrange(1, 6))
        ]
    return made


def hold(net: Net, conversations: list[Conversation], at_once: int = 12) -> None:
    """All of them; each has what was seen. Threads of their own hold so many at once."""
    waiting = list(reversed(conversations))
    threads = [threading.Thread(target=_work, args=(net, waiting)) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _work(net: Net, waiting: list[Conversation]) -> None:
    while waiting:
        with contextlib.suppress(IndexError):
            one = waiting.pop()
            try:
                HOLD[one.kind](net, one)
            except Exception as error:
                one.seen.append(f"failed: {type(error).__name__} {error}")


def _sock(namespace: Any, version: int, kind: int, protocol: int = 0) -> Any:
    sock = namespace.run(socket.socket, FAMILIES[version], kind, protocol)
    sock.settimeout(PATIENCE_S)
    return sock


def _client(net: Any, one: Conversation, kind: int = socket.SOCK_STREAM) -> Any:
    sock = _sock(net.client, one.version, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((CLIENT[one.version], one.source_port))
    return sock


def _origin(net: Any, one: Conversation, kind: int = socket.SOCK_STREAM) -> Any:
    sock = _sock(net.origin, one.version, kind)
    sock.bind((one.address or ORIGIN[one.version], 0))
    if kind == socket.SOCK_STREAM:
        sock.listen(8)
    one.address, one.port = sock.getsockname()[:2]
    return sock


def talk(net: Any, one: Conversation) -> None:
    with _origin(net, one) as listener:
        _talk(net, one, listener)


def again(net: Any, one: Conversation) -> None:
    """The same addresses and ports three times, each ended by a reset."""
    with _origin(net, one) as listener:
        one.steps = [step for step in one.steps if step[0] != "shut"]
        one.resets = [one.end[1], 1 - one.end[1], one.end[1]]
        for side in one.resets:
            one.end = "reset", side
            _talk(net, one, listener)


def _talk(net: Any, one: Conversation, listener: Any) -> None:
    client = _client(net, one)
    with client:
        client.connect((one.address, one.port))
        origin = listener.accept()[0]
        with origin:
            origin.settimeout(PATIENCE_S)
            pair = client, origin
            for step, side, size in one.steps:
                one.sent[side] += STEPS[step](one, pair[side], pair[1 - side], size)
            _end(one, pair)


def _send(one: Conversation, sender: Any, receiver: Any, size: int) -> int:
    """Read as it comes."""
    data = random.Random(size).randbytes(size)
    sending = threading.Thread(target=_try, args=(sender.sendall, data))
    sending.start()
    got = _read(receiver, size)
    sending.join()
    one.seen.append(f"{size} bytes {'as sent' if got == data else f'but {len(got)}, or others'}")
    return size


def _fill(one: Conversation, sender: Any, receiver: Any, size: int) -> int:
    """Until nothing more goes: the window is closed, and opens again."""
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)
    sender.setblocking(False)
    digest, count = hashlib.sha256(), 0
    while select.select([], [sender], [], 0.3)[1] and count < 6_000_000:
        data = random.Random(count).randbytes(16_384)
        sent = sender.send(data)
        digest.update(data[:sent])
        count += sent
    sender.settimeout(PATIENCE_S)
    found = hashlib.sha256(_read(receiver, count)).digest()
    one.seen.append(f"all of what filled it {'as sent' if found == digest.digest() else 'but others'}")
    return count


def _urgent(one: Conversation, sender: Any, receiver: Any, size: int) -> int:
    sender.send(b"before")
    sender.send(b"!", socket.MSG_OOB)
    sender.send(b"after")
    until(lambda: select.select([], [], [receiver], 0.2)[2])
    one.seen.append(f"{_read(receiver, 6)!r} {_try(receiver.recv, 1, socket.MSG_OOB)!r} {_read(receiver, 5)!r}")
    return 12


def _shut(one: Conversation, sender: Any, receiver: Any, size: int) -> int:
    sender.shutdown(socket.SHUT_WR)
    one.seen.append(f"shut: {receiver.recv(100)!r}")
    return 0


STEPS = {"send": _send, "fill": _fill, "urgent": _urgent, "shut": _shut}


def _end(one: Conversation, pair: tuple[Any, Any]) -> None:
    how, side = one.end
    near, far = pair[side], pair[1 - side]
    if how == "close":
        until(lambda: not unsent(near) and not unsent(far))
        near.close()
        one.seen.append(f"closed: {read_all(far)}")
        far.close()
    elif how == "reset":
        until(lambda: not unsent(near) and not unsent(far))
        reset(near)
        one.seen.append(f"reset: {read_all(far)}")
    elif how == "reset in flight":
        near.setblocking(False)
        sent = _try(near.send, bytes(200_000))
        reset(near)
        count, error = read_all(far)
        one.seen.append(f"reset in flight: {count <= sent} {error}")
    elif how == "unread":  # closing resets then
        far.sendall(b"nobody reads this")
        until(lambda: not unsent(far))
        select.select([near], [], [], PATIENCE_S)
        one.sent[1 - side] += 17
        near.close()
        one.seen.append(f"unread: {read_all(far)}")
    else:
        for sock in pair:
            sock.shutdown(socket.SHUT_WR)
        one.seen.append(f"at once: {read_all(near)} {read_all(far)}")


def refused(net: Any, one: Conversation) -> None:
    with _origin(net, one) as listener:
        listener.listen(0)
    _fail(net, one, ORIGIN[one.version])


def unreachable(net: Any, one: Conversation) -> None:
    one.port = 80
    _fail(net, one, UNREACHABLE[one.version])


def silent(net: Any, one: Conversation) -> None:
    one.port, one.address = 80, SILENT[one.version]
    with _client(net, one) as sock:
        sock.settimeout(0.5)
        one.seen.append(str(_try(sock.connect, (one.address, 80))))


def _fail(net: Any, one: Conversation, address: str) -> None:
    one.address = address
    with _client(net, one) as sock:
        one.seen.append(str(_try(sock.connect, (address, one.port))))


def datagrams(net: Any, one: Conversation) -> None:
    """Each is answered, by as much."""
    with _origin(net, one, socket.SOCK_DGRAM) as server, _client(net, one, socket.SOCK_DGRAM) as client:
        for _, _, size in one.steps:
            data = random.Random(size).randbytes(size)
            client.sendto(data, (one.address, one.port))
            got, peer = server.recvfrom(70_000)
            server.sendto(got, peer)
            back, peer = client.recvfrom(70_000)
            one.seen.append(f"{size} {got == data} {back == data} {peer[:2] == (one.address, one.port)}")
            one.datagrams[0] += 1
            one.datagrams[1] += 1


def unheard(net: Any, one: Conversation) -> None:
    """Datagrams that nobody answers."""
    with _origin(net, one, socket.SOCK_DGRAM) as server, _client(net, one, socket.SOCK_DGRAM) as client:
        for size in (0, 9, 0, 700):
            client.sendto(bytes(size), (one.address, one.port))
            one.seen.append(f"{len(server.recv(2000))}")
            one.datagrams[0] += 1


def refused_datagrams(net: Any, one: Conversation) -> None:
    with _origin(net, one, socket.SOCK_DGRAM):
        pass
    with _client(net, one, socket.SOCK_DGRAM) as client:
        client.setsockopt(*RECEIVE_ERRORS[one.version], 1)
        client.connect((one.address, one.port))
        for _ in range(3):
            client.send(b"anybody?")
            one.seen.append(str(_try(client.recv, 10)))
            one.datagrams[0] += 1


def ping(net: Any, one: Conversation) -> None:
    protocol, kind = {4: (socket.IPPROTO_ICMP, 8), 6: (socket.IPPROTO_ICMPV6, 128)}[one.version]
    one.address = ORIGIN[one.version]
    with _sock(net.client, one.version, socket.SOCK_DGRAM, protocol) as sock:
        sock.bind((CLIENT[one.version], one.source_port))
        for number, (_, _, size) in enumerate(one.steps):
            data = random.Random(size).randbytes(size)
            sock.sendto(struct.pack("!BBHHH", kind, 0, 0, 0, number) + data, (one.address, 0))
            back = sock.recv(70_000)
            one.seen.append(f"{size} {back[8:] == data} {back[6:8] == struct.pack('!H', number)}")
            one.datagrams[0] += 1
            one.datagrams[1] += 1


HOLD = {
    "talk": talk, "again": again, "refused": refused, "unreachable": unreachable, "silent": silent,
    "datagrams": datagrams, "refused datagrams": refused_datagrams, "unheard": unheard, "ping": ping,
}  # fmt: skip


def _try(function: Any, *arguments: Any) -> Any:
    """Its result, or the name of the error."""
    try:
        return function(*arguments)
    except OSError as error:
        return type(error).__name__ + f" {error.errno}"


def _read(sock: Any, size: int) -> bytes:
    return b"".join(_pieces(sock, size))


def _pieces(sock: Any, size: int) -> Iterator[bytes]:
    while size and (data := sock.recv(min(size, 1 << 17))):
        size -= len(data)
        yield data
