"""Targets as they are typed, and errors as words."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from oxyctl.traffic.failures import Failed, failed
from oxyctl.traffic.run import check
from oxyctl.traffic.targets import parse_endpoint, parse_url
from tests.traffic.conftest import traffic


@pytest.mark.parametrize(
    ("text", "default", "host", "port"),
    [
        ("web:80", None, "web", 80),
        ("10.0.0.1:7", None, "10.0.0.1", 7),
        ("[fd00::1]:443", None, "fd00::1", 443),
        ("web", 53, "web", 53),
        ("fd00::1", 53, "fd00::1", 53),
        ("[fd00::1]", 53, "fd00::1", 53),
    ],
)
def test_an_endpoint(text, default, host, port):
    endpoint = parse_endpoint(text, default)
    assert endpoint == (host, port)
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize("text", ["web", "", "web:", "web:0", "web:65536", "web:http", "a b:80", "[fd00::1", "web/:80"])
def test_what_is_no_endpoint(text):
    with pytest.raises(ValueError, match=r"not a (host|port)|no port"):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "endpoint", "path", "host_header"),
    [
        ("http://web", ("web", 80), "/", "web"),
        ("https://web/a/b?c=d#e", ("web", 443), "/a/b?c=d", "web"),
        ("http://web:8080/", ("web", 8080), "/", "web:8080"),
        ("https://[fd00::1]:443/x", ("fd00::1", 443), "/x", "[fd00::1]"),
    ],
)
def test_a_url(text, endpoint, path, host_header):
    url = parse_url(text)
    assert (url.endpoint, url.path, url.host_header) == (endpoint, path, host_header)


@pytest.mark.parametrize("text", ["web", "ftp://web/", "http://", "http://web:port/", "http://web/a b", "http://[x/"])
def test_what_is_no_url(text):
    with pytest.raises(ValueError, match="not a URL"):
        parse_url(text)


def test_the_host_of_each_kind():
    assert check(traffic("http", "http://web/")) == "web"
    assert check(traffic("tcp", "http://web/", mode="down")) == "web"
    assert check(traffic("ping", "fd00::1")) == "fd00::1"
    assert check(traffic("dns", "web", query="x")) == "web"
    with pytest.raises(ValueError, match="no port"):
        check(traffic("udp", "web"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "refused"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "unreachable"),
        (PermissionError(errno.EACCES, "Permission denied"), "unreachable"),
        (TimeoutError(), "timeout"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "timeout"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "reset"),
        (ConnectionResetError("Connection lost"), "reset"),
        (ssl.SSLError(1, "wrong version number"), "tls"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "unknown_name"),
        (OSError(errno.ENOBUFS, "No buffer space available"), "enobufs"),
        (Failed("http_503", "503"), "http_503"),
    ],
)
def test_an_error_is_one_word(error, kind):
    assert failed(error).kind == kind


def test_a_mistake_of_ours_is_no_failure_of_an_exchange():
    with pytest.raises(KeyError):
        failed(KeyError("x"))
