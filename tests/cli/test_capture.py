"""What `oxyctl capture` refuses before it looks for a lab; and that it says so when there is none."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ring", "1MB"], "--ring needs files"),
        (["--ring", "1MB", "-w", "-"], "--ring needs files"),
        (["--ring", "soon", "-w", "x"], "expected a size"),
        (["--ring", "1kB", "-w", "x"], "at least 16384 bytes"),
        (["--ring", "1MB,0", "-w", "x"], "SIZE[,FILES]"),
        (["--ring", "1MB,", "-w", "x"], "SIZE[,FILES]"),
        (["--duration", "soon"], "expected a duration"),
        (["--format", "json"], "add -w FILE"),
        (["--count", "0"], "--count"),
    ],
)
def test_what_makes_no_sense(oxyctl, arguments, message):
    done = oxyctl("capture", "all", *arguments)
    assert done.code == 2
    assert message in done.err


def test_without_a_lab(oxyctl):
    done = oxyctl("capture", "all")
    assert (done.code, done.out) == (5, "")
    assert "no lab is running" in done.err
