"""The `sshd` service: OpenSSH's own server in the node's namespace. It admits users whom a tenant's CA certifies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from oxyctl.services.child import Child, dying_with_parent, spawn
from oxyctl.services.host import Host, entered
from oxyctl.services.service import Service, ServiceError, Unavailable, log
from oxyctl.services.ssh import unprivileged
from oxyctl.services.ssh.authority import USER_CAS, host_key
from oxyctl.services.ssh.program import Account

MISSING = "sshd is not installed (apt install openssh-server)"
START_S = 10
FOLLOW_S = 0.1  # interval of checks for new CAs of tenants
PRIVILEGED_PORTS = 1024
NAMES = ("root", "admin", "deploy")  # accounts, besides the name of the lab's user; all have one user id
CONFIGURATION = """
Port {port}
HostKey {key}
HostCertificate {key}-cert.pub
TrustedUserCAKeys {cas}
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin yes
AcceptEnv LANG LC_*
MaxStartups 200
MaxSessions 200
PidFile none
PrintMotd no
Subsystem sftp internal-sftp
{listen}
"""


class OpenSSHService:
    """A running sshd, and the file of trusted authorities, which follows those of tenants."""

    detail: str | None = None

    def __init__(self, host: Host, port: int, program: str) -> None:
        self.host, self.port, self._program = host, port, program
        self._last_lines: list[str] = []
        self._listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._child: Child | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start sshd and wait until it listens. ServiceError, with sshd's output: it does not listen."""
        home = self.host.keys()
        host_key(self.host)
        self._write_authorities()
        self._allow_port()
        (home / "sshd_config").write_text(self._configuration(home))
        reading, writing = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
        )
        try:
            self._child = spawn(
                self.host, self._command(home), stdin=subprocess.DEVNULL, stdout=writing, stderr=writing
            )
        finally:
            os.close(writing)
        self._tasks = [asyncio.create_task(self._handle_line(reader, transport)), asyncio.create_task(self._follow())]
        try:
            await asyncio.wait_for(asyncio.shield(self._listening), START_S)
        except TimeoutError:
            raise ServiceError(f"sshd does not listen after {START_S} s: {self._describe_output()}") from None

    async def stop(self) -> None:
        """End sshd and its sessions."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._child is not None:
            await self._child.kill()

    def _command(self, home: Path) -> list[str]:
        account = Account.current()
        names = ",".join(dict.fromkeys([account.name, *NAMES]))
        server = [self._program, "-D", "-e", "-f", str(home / "sshd_config")]
        script = [sys.executable, "-I", "-S", unprivileged.__file__, str(home), account.shell, names, *server]
        return dying_with_parent(*script)

    def _configuration(self, home: Path) -> str:
        addresses = [] if self.host.netns else self.host.addresses
        listen = "\n".join(f"ListenAddress {address}" for address in addresses)
        key = home / "ssh_host_ed25519_key"
        return CONFIGURATION.format(port=self.port, key=key, cas=self.host.keys() / USER_CAS, listen=listen)

    def _allow_port(self) -> None:
        """Let users other than root listen at any port of the node."""
        if self.host.netns is not None and self.port < PRIVILEGED_PORTS:
            with entered(self.host.netns, "net"):
                Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")

    def _write_authorities(self) -> None:
        """Write the existing authorities of tenants to the file, which sshd reads at each login."""
        texts = []
        for path in self.host.user_cas:
            with contextlib.suppress(OSError):
                texts.append(path.read_text())
        target = self.host.keys() / USER_CAS
        if not target.exists() or target.read_text() != "".join(texts):
            temporary = target.with_name(f".{target.name}")
            temporary.write_text("".join(texts))
            temporary.replace(target)

    async def _follow(self) -> None:
        while self.host.user_cas:
            self._write_authorities()
            await asyncio.sleep(FOLLOW_S)

    async def _handle_line(self, reader: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        try:
            async for line in reader:
                text = line.decode(errors="replace").strip()
                self._last_lines = [*self._last_lines[-2:], text]
                log.info("%s sshd: %s", self.host.name, text)
                if text.startswith("Server listening on") and not self._listening.done():
                    self._listening.set_result(None)
            if not self._listening.done():
                self._listening.set_exception(ServiceError(f"sshd has ended: {self._describe_output()}"))
        finally:
            transport.close()

    def _describe_output(self) -> str:
        return " / ".join(self._last_lines) or "it printed nothing"


def program() -> str | None:
    """The path of sshd."""
    return shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))


async def start(host: Host, port: int) -> Service:
    """Start sshd on `port`; Unavailable if it is not installed."""
    path = program()
    if path is None:
        return Unavailable(port, MISSING)
    service = OpenSSHService(host, port or _free_port(host), path)
    try:
        await service.start()
    except BaseException:
        await service.stop()
        raise
    return service


def _free_port(host: Host) -> int:
    sockets: Sequence = host.listen(0)  # type: ignore[type-arg]
    port = int(sockets[0].getsockname()[1])
    for sock in sockets:
        sock.close()
    return port
