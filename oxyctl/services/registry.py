"""The kinds of services by name. To add one: a module with `start(host, port)`, and a line here."""

from __future__ import annotations

import importlib
from typing import Any, cast

from oxyctl.services.host import Host
from oxyctl.services.service import Factory, Service


def _from(module: str, name: str = "start", **options: Any) -> Factory:
    async def start(host: Host, port: int) -> Service:
        # on first use: asyncssh alone takes 0.3 s to import
        function = getattr(importlib.import_module(f"oxyctl.services.{module}"), name)
        return cast(Service, await function(host, port, **options))

    return start


SERVICES: dict[str, Factory] = {
    "http": _from("http.server"),
    "https": _from("http.server", "start_tls"),
    "https-h1": _from("http.server", "start_tls", versions=["http/1.1"]),
    "https-expired": _from("http.server", "start_tls", fault="expired"),
    "https-self-signed": _from("http.server", "start_tls", fault="self-signed"),
    "https-wrong-name": _from("http.server", "start_tls", fault="wrong-name"),
    "ssh": _from("ssh.server"),
    "sshd": _from("ssh.openssh"),
    "echo": _from("echo"),
    "sink": _from("sink"),
    "discard": _from("sink"),
    "halfclose": _from("halfclose"),
    "reset": _from("reset"),
    "iperf3": _from("iperf3"),
    "dns": _from("dns"),
}
