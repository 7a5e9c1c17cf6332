"""Which interpreters the tests are run on once more, and what is said where there is none."""

from __future__ import annotations

import pytest

from tools import newer

ANSWER = "#!/bin/sh\necho '[3, {minor}, 1, \"{level}\", {free}]'\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory of interpreters, which are all that the machine has."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'nowhere'}:{directory}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return directory


def make(directory, name, text=None, *, minor=0, level="final", free="null"):
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(text or ANSWER.format(minor=minor, level=level, free=free))
    path.chmod(0o755)
    return path


def test_each_newer_version_once_and_the_oldest_first(place, tmp_path):
    make(place, "python3.11", minor=11)
    make(place, "python3.9", minor=9)
    thirteen = make(place, "python3.13", minor=13)
    twelve = make(tmp_path / "pyenv" / "versions" / "3.12.1" / "bin", "python3.12", minor=12)
    make(tmp_path / "pyenv" / "versions" / "3.13.0" / "bin", "python3.13", minor=13)
    assert newer.newer((3, 11), newer.candidates()) == {(3, 12): twelve, (3, 13): thirteen}


def test_what_does_not_run_is_no_release_or_has_no_lock_is_passed_over(place):
    make(place, "python3.12", "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2; exit 127\n")
    make(place, "python3.13", minor=13, free=1)
    make(place, "python3.14", minor=14, level="candidate")
    make(place, "python3.15", "#!/bin/sh\necho hello\n")
    make(place, "python3.15-config", minor=15)
    assert newer.newer((3, 11), newer.candidates()) == {}


def test_none_is_no_failure_and_said(place, capsys, monkeypatch):
    monkeypatch.setattr(newer.sys, "version_info", (3, 11, 2, "final", 0))
    assert newer.main([]) == 0
    assert capsys.readouterr().out == "no Python newer than 3.11 here: nothing to test on\n"


@pytest.mark.parametrize(("code", "failed"), [(0, 0), (1, 1)])
def test_the_verdict_is_that_of_the_tests(place, tmp_path, capsys, monkeypatch, code, failed):
    make(place, "python3.99", minor=99)
    tests = make(place, "tests", f'#!/bin/sh\necho tested "$@"\nexit {code}\n')
    monkeypatch.setattr(newer, "environment", lambda version, python: tests)
    assert newer.main(["-m", "fast"]) == failed
    assert ("passed" in capsys.readouterr().out) is (code == 0)


def test_an_environment_that_cannot_be_made_is_a_failure_and_said(place, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(newer, "ROOT", tmp_path)
    make(place, "python3.99", minor=99)
    broken = place / "python3.99"
    broken.write_text(ANSWER.format(minor=99, level="final", free="null") + '[ "$2" != venv ]\n')
    assert newer.main([]) == 1
    assert "Python 3.99: no environment to test in" in capfd.readouterr().out
