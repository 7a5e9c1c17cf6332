"""Contestants for bench/http.py: this proxy, mitmproxy and squid, which inspect HTTP, and others that do not."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench import peers
from bench.contestants import START_S, Contestant, Proxy
from bench.http_origin import TLS_URL, authority_file
from bench.topology import CLIENT, PROXY, BenchError, Topology, wait_for

NONE, RELAY, READING, MITMPROXY, SQUID = (
    "nginx without a proxy", "relay: the proxy at level stream", "the proxy at level http", "mitmproxy transparent",
    "squid ssl-bump",
)  # fmt: skip
_RULES = 20  # of phase `http`, evaluated for every request


class Direct(Contestant):
    """Kernel forwarding: the limit of the load generators and the origin."""

    name = NONE


class Relay(Proxy):
    """A relay that inspects nothing, but terminates TCP."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.device = RELAY, "oxyr"


class Reading(Proxy):
    """The proxy with everything on: records of flows and of requests, and policies in the phases of inspection."""

    def __init__(self, topology: Topology, inspectors: int = 1) -> None:
        policy = topology.directory / "read.yaml"
        policy.write_text(policies(_RULES))
        super().__init__(inspectors=inspectors, policies=[str(policy)])
        self.name, self.device = READING, "oxyh"

    def command(self, topology: Topology) -> list[str]:
        command = super().command(topology)
        file = Path(command[-1])
        settings: dict[str, Any] = json.loads(file.read_text())
        authority = str(authority_file(topology))
        settings["tenants"]["bench"] |= {
            "level": "http",
            "inspection": {"trust": [authority], "system_trust": False, "ca": {"file": authority}},
        }
        settings["records"]["requests"] = {"path": str(self.requests(topology)), "max_bytes": 10**10}
        settings["state"] = str(topology.directory / "state")
        file.write_text(json.dumps(settings))
        return command

    def requests(self, topology: Topology) -> Path:
        """The path of the log with one line per request."""
        return topology.directory / f"{self.device}.requests"


def policies(count: int) -> str:
    """This many rules of phase `http`, all evaluated and none matching, and a few of phase `tls`."""
    lines = ["rules:", "- {name: pinned, phase: tls, action: do-not-inspect, when: 'net.sni.host == \"bank.lab\"'}"]
    conditions = (
        'http.request.host == "h{0}.lab" and http.request.method == "POST"',
        'http.request.uri.path contains "/secret{0}/"',
        'any(http.request.domains[*] == "d{0}.example")',
        'any(http.request.headers["x-tag"][*] == "{0}")',
    )
    for number in range(count):
        condition = conditions[number % len(conditions)].format(number)
        lines.append(f"- {{name: r{number}, phase: http, action: block, when: '{condition}'}}")
    return "\n".join(lines) + "\n"


class Redirected(Contestant):
    """A program in the proxy's namespace to which nftables redirects the client's connections."""

    plain_port = tls_port = 0

    def command(self, topology: Topology) -> list[str]:
        raise NotImplementedError

    def start(self, topology: Topology, stack: contextlib.ExitStack) -> None:
        command = self.command(topology)
        log = topology.directory / f"{Path(command[0]).name}.log"
        process = self.process = stack.enter_context(topology.running(PROXY, command))

        def is_up() -> bool:
            if process.poll() is not None:
                raise BenchError(f"{self.name} ended at once: {log.read_text().strip()[-300:]}")
            return bool(topology.inside(PROXY, self._listens))

        wait_for(self.name, is_up, START_S)

    @property
    def device(self) -> str:
        """The name of its nftables table."""
        return f"t{self.tls_port}"

    def steer(self, topology: Topology) -> None:
        rules = (
            f"table ip {self.device} {{\n chain c {{\n type nat hook prerouting priority dstnat\n"
            f' iifname "p0" tcp dport 80 redirect to :{self.plain_port}\n'
            f' iifname "p0" tcp dport 443 redirect to :{self.tls_port}\n }}\n}}\n'
        )
        file = topology.directory / f"{self.device}.nft"
        file.write_text(rules)
        topology.run(PROXY, ["nft", "-f", str(file)])

    def unsteer(self, topology: Topology) -> None:
        topology.run(PROXY, ["nft", "delete", "table", "ip", self.device])

    def _listens(self) -> bool:
        wanted = f":{self.tls_port:04X} "
        tables = (Path(f"/proc/thread-self/net/{name}") for name in ("tcp", "tcp6"))
        return any(wanted in line and " 0A " in line for table in tables for line in table.read_text().splitlines())


class Mitmproxy(Redirected):
    """mitmproxy with the kernel's TCP; bodies of more than 1 MB are streamed, as they are here."""

    name = MITMPROXY
    plain_port = tls_port = 18080

    def command(self, topology: Topology) -> list[str]:
        home = topology.directory / "mitmproxy-home"
        home.mkdir(exist_ok=True)
        authority = authority_file(topology)
        (home / "mitmproxy-ca.pem").write_bytes(authority.read_bytes())
        options = {"confdir": str(home), "ssl_verify_upstream_trusted_ca": str(authority), "stream_large_bodies": "1m"}
        command = [str(peers.mitmdump()), "-q", "--mode", f"transparent@{self.tls_port}"]
        return command + [part for name, value in options.items() for part in ("--set", f"{name}={value}")]


_SQUID = """
http_port 127.0.0.1:18082
http_port {plain} intercept
https_port {tls} intercept ssl-bump tls-cert={authority} generate-host-certificates=on dynamic_cert_mem_cache_size=16MB
sslcrtd_program {helper} -s {directory}/certificates -M 16MB
tls_outgoing_options cafile={authority}
acl all_steps at_step SslBump1
ssl_bump peek all_steps
ssl_bump bump all
http_access allow all
cache deny all
access_log {directory}/access.log
cache_log {directory}/cache.log
pid_filename {directory}/squid.pid
coredump_dir {directory}
cache_effective_user nobody
max_filedescriptors {descriptors}
hosts_file /etc/hosts
host_verify_strict off
shutdown_lifetime 1 second
sslcrtd_children 1 startup=1 idle=1
icon_directory {root}/usr/share/squid/icons
mime_table {root}/usr/share/squid/mime.conf
error_directory {directory}/errors
visible_hostname bench
"""


class Squid(Redirected):
    """squid, in C++, which terminates TLS by `ssl-bump`. It does not support HTTP/2."""

    name = SQUID
    plain_port, tls_port = 18090, 18091

    def command(self, topology: Topology) -> list[str]:
        root = peers.squid()
        helper = root / "usr/lib/squid/security_file_certgen"
        directory = topology.directory / "squid-home"
        shutil.rmtree(directory, ignore_errors=True)  # left by an earlier turn
        (directory / "errors").mkdir(parents=True)
        made = subprocess.run(
            [str(helper), "-c", "-s", str(directory / "certificates"), "-M", "16MB"], capture_output=True, text=True
        )
        if made.returncode:
            raise BenchError(f"squid: {(made.stderr or made.stdout).strip()}")
        file = directory / "squid.conf"
        file.write_text(
            _SQUID.format(
                plain=self.plain_port, tls=self.tls_port, authority=authority_file(topology), directory=directory,
                helper=helper, root=root, descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            )
        )  # fmt: skip
        self._give(topology, directory)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)  # hides what another squid has left
        return [str(root / "usr/sbin/squid"), "-N", "-f", str(file)]

    def _give(self, topology: Topology, directory: Path) -> None:
        """squid refuses to run as root and becomes `nobody`, who must own its files."""
        try:
            topology.directory.chmod(0o711)
            authority_file(topology).chmod(0o644)
            for path in (directory, *directory.rglob("*")):
                shutil.chown(path, "nobody")
        except OSError as error:  # a user namespace has no other user
            raise BenchError(f"squid cannot run as another user here: {error}") from error


def is_reached(topology: Topology) -> bool:
    """Whether the origin answers a client that trusts the bench's root."""
    command = ["curl", "-sf", "--max-time", "5", "--cacert", str(authority_file(topology)), f"{TLS_URL}/1k"]
    try:
        return len(topology.run(CLIENT, command)) == 1024
    except BenchError:
        return False
