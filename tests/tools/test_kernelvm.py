"""The machine of the kernel tests: what is booted, what is told of it, and when it is made. Without booting one."""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import subprocess
import sys

import pytest

from tools.kernelvm import __main__ as command
from tools.kernelvm import features, image, machine
from tools.kernelvm.initramfs import cpio
from tools.kernelvm.machine import NO_STATUS, Machine, command_script

DEPENDENCIES = """kernel/a/base.ko:
kernel/a/fou-6.ko.xz: kernel/b/middle.ko kernel/a/base.ko
kernel/b/middle.ko: kernel/a/base.ko
kernel/c/other.ko: kernel/a/base.ko
"""


def test_modules_are_loaded_after_those_that_they_need_and_each_once(tmp_path):
    (tmp_path / "modules.dep").write_text(DEPENDENCIES)
    found = image.with_dependencies(tmp_path, ["fou_6", "other", "built_in"])
    assert found == ["kernel/a/base.ko", "kernel/b/middle.ko", "kernel/a/fou-6.ko.xz", "kernel/c/other.ko"]
    assert [image.module_name(file) for file in found] == ["base", "middle", "fou_6", "other"]


@pytest.mark.parametrize("sectors", [0, 7])
def test_the_kernel_is_found_inside_its_image_with_whatever_follows(sectors):
    kernel = b"\x7fELF" + bytes(range(256)) * 40
    packed = lzma.compress(kernel)
    head = bytearray(((sectors or 4) + 1) * image.SECTOR)
    head[image.SETUP_SECTORS] = sectors
    struct.pack_into("<II", head, image.PAYLOAD_OFFSET, 64, len(packed) + 4)
    assert image.payload(bytes(head) + bytes(64) + packed + b"size" + b"rest") == kernel


def test_what_is_no_kernel_is_said():
    with pytest.raises(image.ImageError, match="not an ELF file"):
        image.payload(bytes(4096))


@pytest.mark.skipif(shutil.which("cpio") is None and shutil.which("busybox") is None, reason="needs cpio or busybox")
def test_the_archive_is_one_that_others_unpack(tmp_path):
    files = {"init": b"#!/bin/sh\n", "a/b/c.ko": bytes(1001), "a/empty": b""}
    unpack = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    subprocess.run([*unpack, "-i", "-d"], input=cpio(files), cwd=tmp_path, check=True, capture_output=True)
    assert {
        str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    } == files
    assert os.access(tmp_path / "init", os.X_OK)


@pytest.fixture
def guest(tmp_path, monkeypatch):
    """A machine that says what a script prints, in the place of qemu."""
    (tmp_path / "lib" / "modules" / "6.1.0").mkdir(parents=True)
    monkeypatch.setattr(machine, "initramfs", lambda kernel, script: b"")
    monkeypatch.setattr(machine, "QEMU", sys.executable)

    def make(script, **options):
        made = Machine(tmp_path, **options)
        made.command = lambda archive: ["sh", "-c", script]
        return made

    return make


@pytest.mark.parametrize(
    ("script", "printed", "status"),
    [
        ("echo noise; echo GUEST-BEGIN; echo one; echo two; echo GUEST-END 0; echo down", "one\ntwo\n", 0),
        ("echo GUEST-BEGIN; printf unended; echo GUEST-END 7", "unended\n", 7),
        ("printf 'noise GUEST-BEGIN\\r\\n'; printf 'one\\r\\n'; printf 'GUEST-END 3\\r\\n'", "one\n", 3),
        ("echo GUEST-BEGIN; echo one", "one\n", NO_STATUS),
        ("echo GUEST-FAILED mount 9p; echo GUEST-END 0", "", NO_STATUS),
    ],
)
def test_only_the_commands_output_is_printed_and_its_exit_code_returned(guest, capfd, script, printed, status):
    assert guest(script).run(["true"]) == status
    out, error = capfd.readouterr()
    assert out == printed
    assert "Linux 6.1.0" in error
    if status == NO_STATUS:
        assert "no exit code" in error


def test_what_a_guest_that_never_began_said_is_told(guest, capfd):
    guest("echo GUEST-FAILED mount 9p").run(["true"])
    assert "GUEST-FAILED mount 9p" in capfd.readouterr().err


def test_a_guest_that_takes_too_long_is_ended(guest):
    assert guest("echo GUEST-BEGIN; exec sleep 600", timeout_s=0.5).run(["true"]) == NO_STATUS


def test_the_command_and_its_environment_survive_the_shell(tmp_path):
    environment = {"PATH": "/a b:/c", "OXYCTL_TEST_KERNEL": "1", "SECRET": "no", "PYTHONPATH": "it's"}
    script = command_script(["echo", "a  b", "$HOME"], environment, tmp_path)
    assert "export PATH='/a b:/c'\nexport OXYCTL_TEST_KERNEL=1\n" in script
    assert "SECRET" not in script
    assert "( echo 'a  b' '$HOME' )" in script
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_a_kernel_that_has_everything_runs_the_command_itself(monkeypatch):
    ran = []
    monkeypatch.setattr(features, "missing", frozenset)
    monkeypatch.setattr(os, "execvp", lambda program, words: ran.append(words) or sys.exit(0))
    with pytest.raises(SystemExit):
        command.main(["auto", "--", "pytest", "-q"])
    assert ran == [["pytest", "-q"]]


def test_a_kernel_that_lacks_something_has_a_machine_made(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(features, "missing", lambda: frozenset({"netem", "GRE"}))
    monkeypatch.setattr(image, "newest", lambda: tmp_path)
    monkeypatch.setattr(Machine, "run", lambda self, words: (self.processors, words))
    assert command.main(["auto", "--processors", "2", "--", "true"]) == (2, ["true"])
    assert "this kernel has no GRE, netem" in capsys.readouterr().err


def test_mistakes_are_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(image, "CACHE", tmp_path)
    monkeypatch.setattr(image, "SBIN", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["fetch"]) == 2
    assert capsys.readouterr().err == "kernelvm: apt-cache is not installed\n"


def test_the_features_that_are_needed_are_those_that_the_doctor_tries():
    assert features.missing() <= {*features.NEEDED, "root"}
