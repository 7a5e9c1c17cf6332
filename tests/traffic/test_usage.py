"""`oxyctl traffic` as it is mistyped: one message, and the exit code, before anything is sent."""

from __future__ import annotations

import pytest

from tests.cli.conftest import oxyctl

__all__ = ["oxyctl"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("http", "laptop", "web"), 2, "not a URL: 'web' (write http://web/ or https://web:8443/path)"),
        (("tcp", "laptop", "web"), 2, "no port: 'web' (write web:80)"),
        (("udp", "laptop", "web:7", "--size", "4"), 2, "--size: expected an integer >= 8"),
        (("udp", "laptop", "web:7", "--size", "some"), 2, "--size: not a size: 'some'"),
        (("udp", "laptop", "web:7", "--rate", "0"), 2, "--rate: expected a number > 0.0"),
        (("ping", "laptop", "web", "--duration", "soon"), 2, "--duration: not a duration: 'soon'"),
        (("ping", "laptop", "web", "-4", "-6"), 2, "-4 and -6 contradict each other"),
        (("tcp", "laptop", "web:7", "--mode", "up", "--count", "3"), 2, "--mode up fills connections"),
        (("http", "laptop", "http://web/", "-H", "x"), 2, "--header: expected NAME:VALUE (found 'x')"),
    ],
)
def test_what_makes_no_sense(oxyctl, arguments, code, message):
    found, out, error = oxyctl("traffic", *arguments)
    assert (found, out) == (code, "")
    assert message in error
    assert error.count("\n") == 1
