"""The services process: its configuration, its report, its failures, its end."""

from __future__ import annotations

import signal
import socket
import sys
import time

import pytest

from tests.services.origin import Origin, node, run, write_config


def services(config):
    return run(sys.executable, "-m", "oxyctl.services", config)


def test_the_report_names_every_service_and_its_port(tmp_path):
    origin = Origin(tmp_path, node("http", "echo"))
    assert origin.stop() == 0
    assert origin.report["ready"] is True
    for entry, name in zip(origin.report["services"], ["http", "echo"], strict=True):
        assert entry == {"node": "web", "service": name, "port": entry["port"], "state": "listening", "detail": None}
        assert entry["port"] > 0


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([{**node(), "services": {"htp": 80}}], "1:41: unknown service 'htp'; did you mean 'http'?"),
        ([{**node(), "services": {"http": 70_000}}], "<= 65535"),
        ([{**node(), "services": {"http": "80"}}], "expected an integer"),
        ([node(addresses=["10.0.0.300"])], "not an address: '10.0.0.300'"),
        ([node(addresses=[])], "addresses to listen on are required without a netns"),
        ([node(), node()], "node 'web' is listed twice"),
        ([node(root="/no/such/directory")], "not a directory: /no/such/directory"),
        ([node(roots="/")], "unknown key 'roots'; did you mean 'root'?"),
        ([node(name="../web")], "nodes.0.name"),
    ],
)
def test_a_wrong_configuration_is_one_line_with_its_place(tmp_path, nodes, message):
    config = write_config(tmp_path, *nodes)
    done = services(config)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{config}:1:")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "[]", "\xff", ""])
def test_what_is_no_configuration_at_all(tmp_path, text):
    config = tmp_path / "config.json"
    config.write_text(text, encoding="latin-1")
    done = services(config)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert services(tmp_path / "missing").returncode == 2


@pytest.mark.parametrize("service", ["http", "https", "ssh", "echo", "iperf3"])
def test_a_port_that_is_taken_stops_everything_with_one_line(tmp_path, service):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = services(
            write_config(tmp_path, {**node("sink", addresses=["127.0.0.1"]), "services": {"sink": 0, service: port}})
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"oxyctl.services: web: {service} on port {port}: ")
    assert "in use" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_namespace_that_is_not_there(tmp_path):
    done = services(write_config(tmp_path, node("echo", netns=str(tmp_path / "gone"))))
    assert done.returncode == 1
    assert done.stderr == "oxyctl.services: web: echo on port 0: No such file or directory\n"


def test_a_state_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "state").touch()
    done = services(write_config(tmp_path, node("echo")))
    assert done.returncode == 1
    assert done.stderr.startswith("oxyctl.services: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_whatever_is_going_on(tmp_path, number):
    origin = Origin(tmp_path, node("http", "ssh", "echo", "halfclose"))
    busy = []
    try:
        for service in origin.port:
            busy.append(socket.create_connection(("127.0.0.1", origin.port[service])))
        busy[0].sendall(b"GET /delay/1000 HTTP/1.1\r\nHost: web\r\n\r\n")
        assert busy[1].recv(100).startswith(b"SSH-2.0-")
        started = time.monotonic()
        assert origin.stop(number) == 0
        assert time.monotonic() - started < 3
    finally:
        for sock in busy:
            sock.close()
    assert "Traceback" not in origin.log.read_text()


def test_keys_and_the_authority_outlive_a_restart(tmp_path):
    kept = {}
    for attempt in range(2):
        origin = Origin(tmp_path, node("https", "ssh"))
        assert origin.stop() == 0
        names = ["ca.pem", "ca.key", "nodes/web/ssh_host_ed25519_key"]
        files = {name: (origin.state / name).read_bytes() for name in names}
        assert files == (kept if attempt else files)
        kept = files
    for secret in ("ca.key", "nodes/web/tls-valid.pem", "nodes/web/ssh_host_ed25519_key"):
        assert (tmp_path / "state" / secret).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_authority_is_told_in_one_line(tmp_path, damage):
    assert Origin(tmp_path, node("https")).stop() == 0
    (tmp_path / "state" / "ca.pem").write_bytes(damage)
    done = services(tmp_path / "config.json")
    assert done.returncode == 1
    assert f"{tmp_path / 'state' / 'ca.pem'}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_many_nodes_share_the_process(tmp_path):
    origin = Origin(tmp_path, *(node("http", "echo", name=f"web-{number}") for number in range(50)))
    try:
        ports = {entry["node"]: entry["port"] for entry in origin.report["services"] if entry["service"] == "http"}
        assert len(set(ports.values())) == 50
        for name, port in ports.items():
            assert f"node         {name}\n" in run("curl", "-sS", f"http://127.0.0.1:{port}/").stdout
    finally:
        assert origin.stop() == 0
