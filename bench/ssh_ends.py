"""Both ends of `bench/ssh.py`, by asyncssh: an origin that admits every user, and a client that measures and checks.

ssh_ends.py origin PORT DIRECTORY
ssh_ends.py TASK HOST PORT NUMBER PIDS      prints JSON: figures of transfers that arrived complete
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh

BLOCK = hashlib.shake_128(b"bench").digest(1 << 20)
FILE = "file.bin"
WINDOW = 2 << 20
CONCURRENT = 4  # sessions started at once
MiB = 1 << 20
PATIENCE_S = 120
PACE = 10e6  # bytes per second in parallel with keystrokes
TICKS = os.sysconf("SC_CLK_TCK")


class Lost(Exception):
    """The data received differs from the data sent."""


def digest_of(size: int) -> str:
    """The SHA-256 of all `blocks`."""
    found = hashlib.sha256()
    for block in blocks(size):
        found.update(block)
    return found.hexdigest()


def blocks(size: int) -> list[bytes | memoryview]:
    """This many bytes, the same each time."""
    whole, rest = divmod(size, len(BLOCK))
    return [BLOCK] * whole + ([memoryview(BLOCK)[:rest]] if rest else [])


# The origin.


class Server(asyncssh.SSHServer):
    """A server that accepts any authentication: ssh-mitm needs some to forward."""

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return True


async def program(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Commands of clients."""
    name, _, argument = (process.command or "").partition(" ")
    if name == "send":
        for block in blocks(int(argument)):
            process.stdout.write(bytes(block))
            await process.stdout.drain()
    elif name == "digest":
        found = hashlib.sha256()
        while data := await process.stdin.read(MiB):
            found.update(data)
        process.stdout.write(found.hexdigest().encode())
    elif not name:  # a shell that echoes input
        while data := await process.stdin.read(MiB):
            process.stdout.write(data)
    process.exit(0)


def _prepare(directory: Path, key: asyncssh.SSHKey) -> Path:
    """Create the directory of the files."""
    (directory / "known_hosts").write_text(f"* {key.export_public_key().decode().strip()}\n")
    files = directory / "files"
    files.mkdir()
    return files


async def origin(port: int, directory: str) -> None:
    """Serve until SIGTERM; the host key's line of known_hosts is in DIRECTORY."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    files = _prepare(Path(directory), key)
    await asyncssh.listen(
        "", port, server_factory=Server, server_host_keys=[key], process_factory=program, encoding=None,
        line_editor=False, window=WINDOW, allow_scp=True, login_timeout=60, max_pktsize=32 << 10,
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=os.fsencode(files)),
    )  # fmt: skip
    print("ready", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


# The client.


def connect(host: str, port: int) -> Any:
    return asyncssh.connect(
        host, port, username="bench", password="bench", known_hosts=None, config=None, client_keys=None, agent_path=None
    )


async def exec_down(conn: asyncssh.SSHClientConnection, size: int) -> None:
    """The output of a command."""
    found, count = hashlib.sha256(), 0
    async with conn.create_process(f"send {size}", encoding=None, window=WINDOW) as process:
        while data := await process.stdout.read(MiB):
            found.update(data)
            count += len(data)
    _require(count == size and found.hexdigest() == digest_of(size), f"{count} of {size} bytes came, or others")


async def exec_up(conn: asyncssh.SSHClientConnection, size: int) -> None:
    """The input of a command."""
    async with conn.create_process("digest", encoding=None, window=WINDOW) as process:
        for block in blocks(size):
            process.stdin.write(bytes(block))
            await process.stdin.drain()
        process.stdin.write_eof()
        found = await process.stdout.read()
    _require(found.decode() == digest_of(size), "the origin has got other bytes")


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.writelines(blocks(size))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Meter:
    """CPU time of this process and of others, including their descendants.

    Unlike wall-clock time, it does not depend on what else runs on the machine.
    """

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids

    def seconds(self) -> float:
        return time.process_time() + sum(map(_cpu_s, self._pids))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / TICKS + sum(_cpu_s(int(child)) for child in children)


async def _transfer(
    meter: Meter, size: int, put: Callable[[str], Awaitable[object]], get: Callable[[str], Awaitable[object]]
) -> tuple[float, float]:
    """Seconds up and down, after a check that the data comes back unchanged."""
    with tempfile.TemporaryDirectory() as directory:
        sent, came = Path(directory, "sent"), Path(directory, "came")
        _fill(sent, size)
        began = meter.seconds()
        await put(str(sent))
        between = meter.seconds()
        await get(str(came))
        ended = meter.seconds()
        _require(_digest(came) == digest_of(size), "the file that came is another one")
    return between - began, ended - between


async def bulk(host: str, port: int, size: int, meter: Meter) -> dict[str, float]:
    """MB per second of the core for commands, sftp and scp; incomplete transfers are reported instead."""
    found = {}
    async with connect(host, port) as conn, conn.start_sftp_client() as sftp:
        works: dict[tuple[str, ...], Callable[[], Awaitable[tuple[float, ...]]]] = {
            ("exec down",): lambda: _timed(meter, exec_down(conn, size)),
            ("exec up",): lambda: _timed(meter, exec_up(conn, size)),
            ("sftp up", "sftp down"): lambda: _transfer(
                meter, size, lambda path: sftp.put(path, FILE), lambda path: sftp.get(FILE, path)
            ),
            ("scp up", "scp down"): lambda: _transfer(
                meter,
                size,
                lambda path: asyncssh.scp(path, (conn, FILE)),
                lambda path: asyncssh.scp((conn, FILE), path),
            ),
        }
        for names, work in works.items():
            try:
                seconds = await asyncio.wait_for(work(), PATIENCE_S)
            except (Lost, TimeoutError, OSError, asyncssh.Error) as error:
                print(f"{', '.join(names)}: {error or 'not done in time'}", file=sys.stderr)
                continue
            found |= {name: size / each / 1e6 for name, each in zip(names, seconds, strict=True)}
    return found


async def _timed(meter: Meter, work: Awaitable[None]) -> tuple[float]:
    began = meter.seconds()
    await work
    return (meter.seconds() - began,)


async def fresh(host: str, port: int, count: int, meter: Meter) -> dict[str, float]:
    """Sessions per second, each with a login and a command."""
    numbers = iter(range(count))

    async def some() -> None:
        for _ in numbers:
            async with connect(host, port) as conn:
                done = await conn.run("true", encoding=None)
                _require(done.exit_status == 0, f"`true` ended with {done.exit_status}")

    began = meter.seconds()
    await asyncio.gather(*(some() for _ in range(CONCURRENT)))
    return {"sessions/s": count / (meter.seconds() - began)}


async def echo(host: str, port: int, count: int, meter: Meter) -> dict[str, float]:
    """Milliseconds for a character to return."""
    async with connect(host, port) as conn:
        return await _keystrokes(conn, count, "echo")


async def beside(host: str, port: int, count: int, meter: Meter) -> dict[str, float]:
    """As `echo`, while another channel of the session transfers at `PACE`, which leaves most of the core idle."""

    async def bulk() -> None:
        began, got = time.monotonic(), 0
        async with conn.create_process(f"send {1 << 40}", encoding=None, window=128 << 10) as process:
            while data := await process.stdout.read(16 << 10):
                got += len(data)
                await asyncio.sleep(max(0, began + got / PACE - time.monotonic()))

    async with connect(host, port) as conn:
        work = asyncio.ensure_future(bulk())
        found = await _keystrokes(conn, count, "echo beside bulk")
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        conn.abort()
        return found


async def _keystrokes(conn: asyncssh.SSHClientConnection, count: int, name: str) -> dict[str, float]:
    times = []
    async with conn.create_process(encoding=None, term_type="xterm", term_size=(80, 24)) as process:
        for number in range(count + 20):
            began = time.perf_counter()
            process.stdin.write(b"x")
            _require(await process.stdout.read(1) == b"x", "another character came back")
            if number >= 20:
                times.append((time.perf_counter() - began) * 1000)
    cuts = statistics.quantiles(times, n=100)
    return {f"{name} p50 ms": cuts[49], f"{name} p99 ms": cuts[98]}


async def idle(host: str, port: int, count: int, meter: Meter) -> dict[str, float]:
    """Hold this many sessions, each with a terminal, until standard input ends."""
    conns = []
    for _ in range(count):
        conn = await connect(host, port)
        conns.append((conn, await conn.create_process(encoding=None, term_type="xterm")))
    print("held", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for conn, _ in conns:
        conn.abort()
    return {}


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Lost(what)


TASKS = {"bulk": bulk, "fresh": fresh, "echo": echo, "beside": beside, "idle": idle}


def main(arguments: list[str]) -> None:
    """Run one end."""
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    if arguments[0] == "origin":
        asyncio.run(origin(int(arguments[1]), arguments[2]))
    else:
        task, host, port, number, pids = arguments
        meter = Meter([int(pid) for pid in pids.split(",") if pid])
        print(json.dumps(asyncio.run(TASKS[task](host, int(port), int(number), meter))))


if __name__ == "__main__":
    main(sys.argv[1:])
