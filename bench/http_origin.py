"""The origin for HTTP inspection: nginx with TLS, files of 1 KiB and 100 MB, uploads; and one root CA for all.

The root signs the origin's certificate, and every contestant uses it to sign its own certificates, so that differences
between keys do not affect the comparison.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.programs import BODY_BYTES
from bench.topology import CLIENT, ORIGIN, ORIGIN_ADDRESS, BenchError, Topology, wait_for
from proxy.ca.authority import Authority

HOST = "web.lab"
PLAIN_URL, TLS_URL = f"http://{HOST}", f"https://{HOST}"
BULK_BYTES = 100_000_000

_NGINX = """
worker_processes 1; daemon off; pid nginx.pid; error_log nginx.err; user root;
events { worker_connections 60000; }
worker_rlimit_nofile 131072;
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600; sendfile on; tcp_nopush on;
  client_body_temp_path cb; proxy_temp_path pt; fastcgi_temp_path ft; uwsgi_temp_path ut; scgi_temp_path st;
  client_max_body_size 0; client_body_buffer_size 1m;
  server {
    listen 80 backlog=8192; listen 443 ssl http2 backlog=8192; root www;
    ssl_certificate leaf.pem; ssl_certificate_key leaf.key; ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:s:10m; http2_max_concurrent_streams 1000;
    location /up/ { dav_methods PUT; create_full_put_path on; }
  }
}
"""


class Origin:
    """The origin's addresses and files."""

    def __init__(self, directory: Path, trust: Path, bulk_sha256: str) -> None:
        self.directory, self.trust, self.bulk_sha256 = directory, trust, bulk_sha256

    @property
    def bulk_file(self) -> Path:
        return self.directory / "www/100m"

    def uploaded_sha256(self) -> str:
        """The hash of the last upload, which is removed; empty: there was none."""
        path = self.directory / "www/up/100m"
        if not path.exists():
            return ""
        found = sha256(path)
        path.unlink()
        return found


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def tls_origin(topology: Topology) -> Iterator[Origin]:
    """nginx in the origin's namespace, reached as `web.lab`."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise BenchError("nginx is needed as the origin of HTTP over TLS")
    directory = topology.directory / "tls-origin"
    (directory / "www/up").mkdir(parents=True)
    (directory / "www/1k").write_bytes(b"x" * BODY_BYTES)
    bulk = directory / "www/100m"
    block = bytes(range(256)) * 4096
    with bulk.open("wb") as file:
        for start in range(0, BULK_BYTES, len(block)):
            file.write(block[: BULK_BYTES - start])
    (directory / "nginx.conf").write_text(_NGINX)
    _certify(topology, directory)
    _name(topology)
    with topology.running(ORIGIN, [program, "-p", str(directory), "-c", "nginx.conf", "-e", "nginx.err"]):
        command = ["curl", "-sf", "--cacert", str(authority_file(topology)), "-o", "/dev/null", f"{TLS_URL}/1k"]
        wait_for("the origin", lambda: _succeeds(topology, command))
        yield Origin(directory, authority_file(topology), sha256(bulk))


def authority_file(topology: Topology) -> Path:
    """The root's certificate and key in PEM."""
    return topology.directory / "authority.pem"


def _certify(topology: Topology, directory: Path) -> None:
    root = Authority.create("root of the bench")
    authority_file(topology).write_bytes(root.certificate_pem + root.key_pem)
    leaf = root.mint(HOST)
    (directory / "leaf.pem").write_bytes(leaf.chain)
    (directory / "leaf.key").write_bytes(leaf.key)


def _name(topology: Topology) -> None:
    """Add the origin's name to /etc/hosts in the bench's own mount namespace."""
    hosts = topology.directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{ORIGIN_ADDRESS} {HOST}\n")
    done = subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"/etc/hosts cannot be replaced in the bench: {done.stderr.strip()}")


def _succeeds(topology: Topology, command: list[str]) -> bool:
    try:
        topology.run(CLIENT, command)
    except BenchError:
        return False
    return True
