"""The lab of sessions that are read: its checks hold, and programs of all kinds trust what the proxy shows them."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zlib

import pytest

from tests.labs.conftest import ROOT, eventually

pytestmark = [pytest.mark.netns, pytest.mark.slow]

ACME = ("--tenant", "acme")
IMAGES = 50

WEBSOCKET = """
import asyncio, os, ssl, websockets
async def main():
    async with websockets.connect("wss://shop/ws", max_size=None, ssl=ssl.create_default_context()) as socket:
        whole = os.urandom(16 << 20)
        await socket.send(whole)
        assert await socket.recv() == whole
        await socket.send(["a" * 70_000, "", "b"])
        assert await socket.recv() == "a" * 70_000 + "b"
        await asyncio.wait_for(await socket.ping(b"x" * 125), 20)
        await socket.close(4321, "enough")
        print(socket.close_code, socket.close_reason)
asyncio.run(asyncio.wait_for(main(), 60))
"""

HANDSHAKE = """
import socket, ssl
with socket.create_connection(("shop", 443), 10) as sock:
    ssl.create_default_context().wrap_socket(sock, server_hostname="shop").close()
"""

PAGE = """<!doctype html><p id="told"></p>{images}<script>
const told = {{images: 0, echo: "", code: 0}};
const tell = () => document.getElementById("told").textContent = Object.values(told).join(" ");
for (const image of document.images)
  if (image.complete) told.images++; else image.onload = () => {{ told.images++; tell(); }};
const socket = new WebSocket("wss://shop/ws");
socket.onopen = () => socket.send("hello");
socket.onmessage = (message) => {{ told.echo = message.data; socket.close(4000); }};
socket.onclose = (event) => {{ told.code = event.code; tell(); }};
</script>"""

BROWSER = """
export HOME={home}
mkdir -p $HOME/.pki/nssdb
certutil -N -d sql:$HOME/.pki/nssdb --empty-password
certutil -A -d sql:$HOME/.pki/nssdb -n acme -t C,, -i {authority}
chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
  --disable-component-update --disable-sync --user-data-dir=$HOME/profile --timeout=40000 --virtual-time-budget=30000 \
  --dump-dom https://shop/page.html
"""


def png(number):
    """An image of one pixel, of a colour of its own."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes([0, number, 0, 0]))) + chunk(b"IEND", b"")


def build(machine):
    """The lab, whose shop also serves a page with images."""
    www = machine.directory / "www"
    www.mkdir()
    for number in range(IMAGES):
        (www / f"{number}.png").write_bytes(png(number))
    images = "".join(f'<img src="{number}.png">' for number in range(IMAGES))
    (www / "page.html").write_text(PAGE.format(images=images))
    services = "services: {http: 80, https: 443, https-h1: 444}"
    text = (ROOT / "labs" / "inspect.yaml").read_text()
    assert services in text
    machine.oxyctl("lab", "up", machine.file("inspect.yaml", text.replace(services, f"{services}\n    root: www")))


def test_its_checks_hold_and_programs_trust_the_tenants_authority(machine):
    build(machine)
    machine.oxyctl("lab", "check")
    if shutil.which("curl"):
        check_curl(machine)
    assert machine.exec("laptop", machine.python, "-c", WEBSOCKET) == "4321 enough\n"
    if shutil.which("chromium") and shutil.which("certutil") and os.geteuid() == 0 and not machine.is_rootless:
        check_browser(machine)
    machine.oxyctl("ca", "rotate", *ACME, "--overlap", "0")
    shake = machine.command("lab", "exec", "laptop", "--", machine.python, "-c", HANDSHAKE)
    eventually(
        lambda: subprocess.run(shake, env=machine.environment, check=False).returncode == 0, "the new CA is trusted"
    )
    flow = json.loads(machine.oxyctl("flows", *ACME, "--http-status", "451", "--format", "json").stdout)["items"][0]
    assert "no-salaries" in machine.oxyctl("flows", "explain", flow["flow_id"], *ACME).stdout


def check_curl(machine):
    for version, told in (("--http1.1", "1.1"), ("--http2", "2")):
        size = 5_000_000
        upload = f"head -c {size} /dev/zero | curl -sS -m 60 {version} -H 'Expect: 100-continue' -T - -X POST"
        echoed = machine.exec("laptop", "sh", "-c", f"{upload} https://shop/echo | wc -c")
        assert int(echoed) == size
        got = ("-o", "/dev/null", "-w", "%{http_version} %{size_download}", f"https://shop/bytes/{size}")
        assert machine.exec("laptop", "curl", "-sS", "-m", "60", version, *got) == f"{told} {size}"


def check_browser(machine):
    """Chromium loads a page, its images and a WebSocket over one connection."""
    home = machine.directory / "home"
    authority = next(machine.run.rglob("ca/acme/certificate.pem"))
    page = machine.exec("laptop", "sh", "-c", BROWSER.format(home=home, authority=authority))
    assert f'<p id="told">{IMAGES} hello 4000</p>' in page

    def requests():
        asked = machine.oxyctl("flows", "requests", *ACME, "--url", "*.png", "--format", "json")
        return len(json.loads(asked.stdout)["items"]) == IMAGES

    eventually(requests, "the records of the images")
