"""A bridge between real clients and real servers on loopback, without the rest of the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import itertools
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import msgspec

from proxy.ca.ssh import PERMITS, SSHKeys
from proxy.errors import ProxyError
from proxy.inspect.ssh.bridge import Bridge
from proxy.session.facts import FlowFacts
from proxy.session.ssh import SSHRules

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
USER = getpass.getuser()
WAIT_S = 20


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_until(condition, what="it"):
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return found


class View:
    """An `SSHView` that keeps what it is told."""

    def __init__(self, world, flow):
        self.world, self.flow, self.rules = world, flow, world.rules

    def judge(self, facts):
        self.world.judged.append(dict(facts))
        return self.world.judge(facts)

    def has(self, hook):
        return hook in self.world.hooks

    async def ask(self, hook, argument):
        self.world.asked.append((hook, argument))
        return self.world.hooks[hook](argument)

    async def certificate(self, public_key, user, identity):
        world, key_id = self.world, f"{identity} by {self.flow.id}"
        return world.keys.sign("acme", public_key, key_id, [user], 300, world.sources, world.permits)

    async def sign(self, key, data, algorithm):
        self.world.signed.append((key, data))
        signer = self.world.keys.host_key("acme") if key == "host" else self.world.onward
        return signer.sign(data, algorithm)

    async def fingerprints(self):
        return self.world.digests

    async def recording(self, name):
        if self.world.recordings is None:
            raise ProxyError("no place for recordings")
        return os.open(self.world.recordings / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def opened(self, channel_id, end, terminal):
        self.world.opened.append((channel_id, end, terminal))

    def record(self, child):
        (self.world.begun if getattr(child, "is_open", False) else self.world.records).append(child)


class World:
    """A listener whose every connection is bridged to the origin; it runs in a thread of its own."""

    def __init__(self, place: Path, origin_port: int, **rules):
        self.place, self.origin_port = place, origin_port
        self.keys = SSHKeys(place)
        self.records, self.judged, self.asked, self.outcomes = [], [], [], []
        self.begun, self.opened = [], []  # channels that are open
        self.hooks, self.judge, self.recordings = {}, lambda facts: None, place
        self.user = "alice@acme.example"
        self.permits = [*PERMITS, "permit-port-forwarding", "permit-agent-forwarding", "permit-X11-forwarding"]
        self.sources, self.signed, self.digests, self.onward = ["127.0.0.1/32"], [], [], None
        self.rules = SSHRules(host_key=self.keys.host_public_key("acme"), **{"trust_tunnel": True, **rules})
        self._numbers = itertools.count(1)
        self._bridges, self.bridges = set(), set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        (place / "known_hosts").write_text(f"* {self.keys.host_public_key('acme')}\n")

    def __enter__(self):
        self._thread.start()
        assert self._started.wait(WAIT_S)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def change(self, **rules):
        self.rules = msgspec.structs.replace(self.rules, **rules)

    async def _serve(self):
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        accepting = asyncio.ensure_future(self._accept(listener))
        self._started.set()
        await self._stop.wait()
        accepting.cancel()
        for each in list(self._bridges):
            each.cancel()
        await asyncio.gather(accepting, *self._bridges, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)  # transports that were aborted are closed in the loop's next turns
        listener.close()

    async def _accept(self, listener):
        while True:
            client, _ = await self.loop.sock_accept(listener)
            client.setblocking(False)
            task = asyncio.ensure_future(self._bridge(client))
            self._bridges.add(task)
            task.add_done_callback(self._bridges.discard)

    async def _bridge(self, client):
        origin = socket.create_connection(("127.0.0.1", self.origin_port))
        origin.setblocking(False)
        flow = FlowFacts(
            id=f"flow{next(self._numbers)}",
            tenant="acme",
            onramp="clients",
            tunnel="t1",
            src="100.96.0.2",
            src_port=40_000,
            dst="127.0.0.1",
            dst_port=self.origin_port,
            user=self.user,
        )
        bridge = Bridge(View(self, flow))
        self.bridges.add(bridge)
        outcomes = self.outcomes
        try:
            outcomes.append(await bridge.run(client, origin))
        finally:
            self.bridges.discard(bridge)

    def client_options(self):
        """Of ssh, scp and sftp: only this world's host key is trusted, and nothing of the user's own is used."""
        return [
            "-F", "none", "-o", f"UserKnownHostsFile={self.place / 'known_hosts'}", "-o", "StrictHostKeyChecking=yes",
            "-o", "BatchMode=yes", "-o", "IdentityAgent=none", "-o", f"User={USER}", "-o", "ConnectTimeout=20",
            "-o", "GlobalKnownHostsFile=/dev/null",
        ]  # fmt: skip

    def ssh(self, *command, options=(), **more):
        """Run OpenSSH's client."""
        options = [*options, *self.client_options()]  # the first value of an option stands
        arguments = ["ssh", "-p", str(self.port), *options, "127.0.0.1", *command]
        settings = {"capture_output": True, "text": True, "timeout": 20, "stdin": subprocess.DEVNULL, **more}
        if "input" in settings:
            del settings["stdin"]
        return subprocess.run(arguments, **settings)

    def held(self):
        """Bytes that wait in all bridges for somebody to take them."""
        return asyncio.run_coroutine_threadsafe(self._held(), self.loop).result(WAIT_S)

    async def _held(self):
        total = 0
        for bridge in self.bridges:
            for conn in (bridge.client, bridge.origin):
                if conn is not None and conn._transport is not None:
                    total += conn._transport.get_write_buffer_size() + len(conn._inpbuf)
                    total += sum(len(data) for _, data in conn._deferred_packets for data in data)
                    for chan in conn._channels.values():
                        total += chan._send_buf_len + sum(len(data) for data, _ in chan._recv_buf)
        return total

    def channels(self, count=1):
        """The records of channels, once there are so many."""
        of = lambda: [each for each in self.records if type(each).__name__ == "ChannelRecord"]  # noqa: E731
        wait_until(lambda: len(of()) >= count, f"{count} channel records, not {of()}")
        return of()

    def channel(self, command):
        """The record of the channel in which this command ran, once it has ended."""
        wait_until(lambda: any(each.command == command and not each.is_open for each in self.channels(0)), command)
        return next(each for each in self.channels(0) if each.command == command and not each.is_open)

    def files(self):
        return [each for each in self.records if type(each).__name__ == "FileRecord"]


def make_key(path: Path):
    """A pair of keys there, unless there is one."""
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


@contextlib.contextmanager
def sshd(place: Path, *lines, address="127.0.0.1", start=subprocess.Popen):
    """OpenSSH's server, which trusts the CA in `place`; gives its port. `start` starts a process where it belongs."""
    place.mkdir(exist_ok=True)
    key, port = place / "origin_key", free_port()
    make_key(key)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    (place / "sshd_config").write_text("\n".join([
        f"Port {port}", f"ListenAddress {address}", f"HostKey {key}", f"PidFile {place / 'sshd.pid'}", "UsePAM no",
        "StrictModes no", f"TrustedUserCAKeys {place / 'ca.pub'}", "PermitRootLogin yes", "AcceptEnv LANG TEST_*",
        "PasswordAuthentication no", "MaxStartups 100", "MaxSessions 50", "Subsystem sftp internal-sftp", *lines, "",
    ]))  # fmt: skip
    with (place / "sshd.log").open("wb") as log:
        process = start([SSHD, "-D", "-e", "-f", place / "sshd_config"], stderr=log)
    try:
        wait_until(lambda: "listening" in (place / "sshd.log").read_text(), "sshd")
        yield port
    finally:
        process.terminate()
        process.wait(WAIT_S)


def known_line(place: Path, port: int, key: Path | None = None):
    """What known_hosts says of that server."""
    return f"[127.0.0.1]:{port} " + (key or place / "origin_key.pub").read_text()
