"""nginx and Caddy as origins of what is read: what curl gets through the proxy is what they have, in each version."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.inspect.test_http_sessions import curl
from tests.inspect.world import ReadingStage
from tests.netns import needs_root
from tests.running import staged, until

pytestmark = [
    pytest.mark.netns,
    needs_root,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]

NGINX = """
daemon off; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
events {{}}
http {{
  access_log off; client_body_temp_path {directory}/www; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory}; client_max_body_size 0;
  gzip on; gzip_proxied any; gzip_types text/plain; types {{ text/plain txt; }}
  server {{
    listen 10.50.0.10:8443 ssl http2; server_name wiki.lab; root {directory}/www; dav_methods PUT;
    ssl_certificate {chain}; ssl_certificate_key {key};
  }}
}}
"""
CADDY = """
{{
  admin off
  auto_https off
}}
https://wiki.lab:9443 {{
  tls {chain} {key}
  root * {directory}/www
  encode gzip
  file_server
}}
"""
TEXT = b"what is read is what was written\n" * 30_000


@pytest.fixture(scope="module")
def stage():
    with staged(ReadingStage, level="http") as stage:
        yield stage


@pytest.fixture(scope="module")
def files(stage):
    """What configurations are filled with; `www` holds TEXT."""
    directory = Path(stage.directory)
    directory.chmod(0o755)  # workers have no rights
    (directory / "www").mkdir()
    (directory / "www").chmod(0o777)
    (directory / "www" / "text.txt").write_bytes(TEXT)
    chain, key = stage.leaf_files("wiki.lab")
    return {"directory": directory, "chain": chain, "key": key}


def serving(stage, port, *words):
    """A server in the origin's namespace, from when its port is open until the end."""
    with open(Path(stage.directory, "server.log"), "wb") as log:
        server = stage.origin.run(subprocess.Popen, [str(word) for word in words], stdout=log, stderr=log)
    try:
        until(lambda: stage.origin.run(is_open, port))
        yield port
    finally:
        server.terminate()
        server.wait()


def is_open(port):
    lines = Path("/proc/thread-self/net/tcp").read_text() + Path("/proc/thread-self/net/tcp6").read_text()
    return f":{port:04X} " in lines


@pytest.fixture(scope="module")
def nginx(stage, files):
    if not shutil.which("nginx"):
        pytest.skip("needs nginx")
    configuration = files["directory"] / "nginx.conf"
    configuration.write_text(NGINX.format(**files))
    yield from serving(stage, 8443, "nginx", "-c", configuration, "-p", files["directory"])


@pytest.fixture(scope="module")
def caddy(stage, files):
    if not shutil.which("caddy"):
        pytest.skip("needs caddy")
    configuration = files["directory"] / "Caddyfile"
    configuration.write_text(CADDY.format(**files))
    yield from serving(stage, 9443, "caddy", "run", "--config", configuration, "--adapter", "caddyfile")


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("server", ["nginx", "caddy"])
def test_pages_arrive_as_they_are_compressed_or_not(stage, laptop, server, version, request):
    port, got = request.getfixturevalue(server), Path(stage.directory, "got")
    for more, unpacked in (((), bytes), (("-H", "Accept-Encoding: gzip"), gzip.decompress)):
        done = curl(stage, laptop, port, f"--http{version}", *more, "-o", str(got), path="/text.txt")
        assert done.stdout == f"\n{version} 200", done.stderr
        assert unpacked(got.read_bytes()) == TEXT


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_uploads_arrive_whole(stage, laptop, nginx, files, version):
    up = ("-T", str(files["directory"] / "www" / "text.txt"), "-H", "Expect: 100-continue")
    done = curl(stage, laptop, nginx, f"--http{version}", *up, path=f"/up{version}.txt")
    assert done.stdout == f"\n{version} 201", done.stderr
    assert (files["directory"] / "www" / f"up{version}.txt").read_bytes() == TEXT
