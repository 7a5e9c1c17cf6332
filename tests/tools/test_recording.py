"""The README's picture of a terminal shows what commands print, and nothing of a command that fails."""

from __future__ import annotations

import pytest

from tools.recording import record


def test_the_picture_shows_commands_and_what_they_print():
    picture = record(("lab validate quickstart",))
    assert picture.startswith("<svg")
    assert "validate" in picture
    assert "quickstart" in picture


def test_a_command_that_fails_makes_no_picture():
    with pytest.raises(RuntimeError, match="ended with exit code 5"):
        record(("lab status no-such-lab",))
