"""Sizes and durations as they are typed."""

from __future__ import annotations

import pytest

from oxyctl.cli.quantities import parse_duration, parse_size
from oxyctl.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("10MB", 10_000_000), ("64KiB", 65_536), ("1.5k", 1500), ("2GiB", 2 << 30), ("7b", 7), (" 3 kb ", 3000)],
)
def test_sizes(text, size):
    assert parse_size(text, "--ring") == size


@pytest.mark.parametrize(("text", "seconds"), [("1", 1), ("500ms", 0.5), ("1.5m", 90), ("2h", 7200), ("10s", 10)])
def test_durations(text, seconds):
    assert parse_duration(text, "--duration") == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1x", "MB", "1 2", "nan", "1e3", "0.5b"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="--ring"):
        parse_size(text, "--ring")


@pytest.mark.parametrize("text", ["", "0", "-1s", "soon", "1d", "inf"])
def test_what_is_no_duration(text):
    with pytest.raises(UsageError, match="--duration"):
        parse_duration(text, "--duration")
