"""What an inspector cannot do any more, tried from inside one that has given up its rights."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.inspect import landlock
from tests.netns import needs_root
from tests.running import ROOT

# What is tried, and what stands for success. It runs in a process of its own, which never gets its rights back.
PROBE = """
import ctypes, json, os, signal, socket, ssl, subprocess, sys, threading
near, far = socket.socketpair()
libc = ctypes.CDLL(None, use_errno=True)
import proxy.inspect.__main__ as main
main._import_all(False)
from proxy.inspect.sandbox import drop_privileges
key, parent = sys.argv[1], os.getppid()
if "no landlock" in sys.argv:
    from proxy.inspect import landlock
    landlock.abi = lambda: 0
shortfalls = drop_privileges(logs_keys="keys" in sys.argv)
def traced():
    if libc.ptrace(16, parent, 0, 0):  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "syscall")
wanted = {
    "socket": lambda: socket.socket(),
    "connect": lambda: far.connect("\\0somebody"),
    "read the key": lambda: open(key),
    "write the key": lambda: open(key, "a"),
    "make a file": lambda: open(key + ".new", "w"),
    "read accounts": lambda: open("/etc/passwd"),
    "list": lambda: os.listdir(os.path.dirname(key)),
    "remove": lambda: os.unlink(key),
    "program": lambda: os.execv("/bin/true", ["true"]),
    "process": lambda: os.fork() or os._exit(0),
    "signal": lambda: os.kill(parent, 0),
    "ptrace": traced,
    "user": lambda: os.setuid(0),
    "memory of another": lambda: open(f"/proc/{parent}/mem", "rb"),
}
done = []
for name, attempt in wanted.items():
    try:
        attempt()
        done.append(name)
    except OSError:
        pass
# what it needs is still there: bytes, threads, certificates in memory, roots
near.send(b"x"); assert far.recv(1) == b"x"
thread = threading.Thread(target=near.send, args=(b"y",)); thread.start(); thread.join(); assert far.recv(1) == b"y"
held = os.memfd_create("leaf"); os.write(held, b"z"); assert open(f"/proc/self/fd/{held}").read() == "z"
ssl.create_default_context()
print(json.dumps({"shortfalls": shortfalls, "done": done, "user": os.getresuid(), "groups": os.getgroups()}))
"""


def probe(path: Path, *more: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(path), *more], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "authority.pem"
    path.write_text("key")
    path.chmod(0o644)  # what protects it here is not its mode
    return path


needs_landlock = pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(not importlib.util.find_spec("pyseccomp"), reason="there is no pyseccomp")


@needs_root
@needs_landlock
@needs_seccomp
@pytest.mark.parametrize("more", [(), ("keys",)], ids=["", "with a key log"])
def test_root_gives_up_everything_and_becomes_nobody(key, more):
    found = probe(key, *more)
    assert (found["shortfalls"], found["done"]) == ([], [])
    assert len(set(found["user"])) == 1
    assert 61184 <= found["user"][0] < 65520
    assert found["groups"] == []
    assert key.read_text() == "key"


@needs_seccomp
def test_without_landlock_secrets_are_not_logged_and_no_file_can_be_written(key):
    key.chmod(0o666)  # anybody might write to it
    found = probe(key, "keys", "no landlock")
    assert any(each.startswith("secrets of TLS sessions are not logged") for each in found["shortfalls"])
    assert not {"write the key", "make a file"} & {*found["done"]}


@needs_landlock
@pytest.mark.skipif(os.geteuid() == 0, reason="for a user")
def test_a_user_keeps_no_file_either(key):
    found = probe(key)
    assert not {"read the key", "write the key", "make a file", "read accounts", "list"} & {*found["done"]}


@needs_root
def test_a_kernel_without_landlock_is_said(monkeypatch, key):
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    with pytest.raises(OSError, match="Landlock"):
        landlock.restrict([str(key)])
