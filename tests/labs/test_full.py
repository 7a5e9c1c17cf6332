"""A disk that is full, eight labs at once, a reboot, a slow end, and names and files that make no sense."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.labs.conftest import eventually, holding_namespaces, processes_of, users_of
from tests.labs.test_life import PAIR

pytestmark = pytest.mark.netns


def on_tmpfs(machine, options, *arguments):
    """Run `oxyctl` with its run directory on a tiny disk of its own, which ends with it; how it ended."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = f'mkdir -p "$0" && mount -t tmpfs -o mode=0777,{options} tmpfs "$0" && exec "$@"'
    disk, run = machine.directory / "disk", machine.directory / "disk" / "run"
    command = ["unshare", *user, "--mount", "sh", "-c", script, disk, *machine.command(*arguments)]
    environment = machine.environment | {"OXYCTL_RUN_DIR": str(run)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60), run


@pytest.mark.parametrize(
    "options", [f"nr_inodes={inodes}" for inodes in (2, 4, 6, 8, 12, 14)] + ["size=4k", "size=8k", "size=16k"]
)
def test_a_full_disk_is_one_message_and_nothing_stays(machine, options):
    pair = machine.file("pair.yaml", PAIR)
    done, run = on_tmpfs(machine, options, "lab", "up", pair)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    eventually(lambda: not processes_of(run), "no process")


def test_eight_labs_at_once(machine):
    pair = machine.file("pair.yaml", PAIR)
    names = [f"lab{number}" for number in range(8)]
    commands = [machine.start("lab", "up", pair, "--name", name) for name in names]
    for command in commands:
        _, errors = command.communicate(timeout=120)
        assert command.returncode == 0, errors
    listed = machine.oxyctl("lab", "ls").stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [[name, "up"] for name in names]
    machine.oxyctl("lab", "exec", "server", "--", "true", code=5)
    machine.environment["OXYCTL_LAB"] = "lab3"
    assert machine.exec("client", "ping", "-c1", "-W5", "server").count("1 received") == 1
    del machine.environment["OXYCTL_LAB"]
    with holding_namespaces(processes_of(machine.run)) as namespaces:
        assert len({name for name in namespaces if name.startswith("pid:")}) == 8
        down = machine.oxyctl("lab", "down", "--all")
        assert [line for line in down.stderr.splitlines() if "is down" in line] == [f"lab '{n}' is down" for n in names]
        eventually(lambda: not users_of(namespaces), "nobody is in their namespaces")
    assert machine.oxyctl("lab", "down", "--all").stderr == ""


def test_gc_and_down_after_a_reboot(machine):
    pair = machine.file("pair.yaml", PAIR)
    machine.oxyctl("lab", "up", pair)
    kept = {path: path.read_bytes() for path in (machine.run / "labs" / "pair").glob("*.json")}
    machine.oxyctl("lab", "down")
    for path, content in kept.items():  # what a reboot would have left
        path.parent.mkdir(exist_ok=True)
        old = content.replace(b'"boot_id":"', b'"boot_id":"before-')
        path.write_bytes(old)
        os.chown(path, path.parent.parent.stat().st_uid, -1)
        os.chown(path.parent, path.parent.parent.stat().st_uid, -1)
    pair.unlink()
    assert "pair  dead" in machine.oxyctl("lab", "ls", cwd="/").stdout
    machine.oxyctl("lab", "status", "pair", code=5, cwd="/")
    assert "would delete" in machine.oxyctl("lab", "gc", "--dry-run", cwd="/").stdout
    machine.oxyctl("lab", "up", machine.file("pair.yaml", PAIR))
    machine.oxyctl("lab", "down", "pair", cwd="/")


def test_files_and_names_that_make_no_sense(machine):
    pair = machine.file("pair.yaml", PAIR)
    secret = machine.file("secret.yaml", PAIR)
    secret.chmod(0)
    huge = machine.file("huge.yaml", "# " + "x" * (10 << 20))
    mistakes = [
        ([machine.directory], f"{machine.directory}: is a directory"),
        ([machine.directory / "none.yaml"], "none.yaml: no such file or directory"),
        ([huge], "huge.yaml: larger than 4 MiB"),
        ([pair, "--name", "../pair"], "'../pair' is not a valid lab name"),
        ([pair, "--name", ".."], "'..' is not a valid lab name"),
        ([pair, "--name", ""], "'' is not a valid lab name"),
        ([pair, "--name", "a" * 64], "is not a valid lab name"),
    ]
    mistakes += [([secret], "secret.yaml: permission denied")] if machine.is_rootless else []
    for arguments, message in mistakes:
        done = machine.oxyctl("lab", "up", *arguments, code=2)
        assert message in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    assert not (machine.run / "labs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_lab_that_is_ending_is_waited_for_and_built_anew(machine, number):
    """Its program takes its time to end."""
    stubborn = "trap 'sleep 1; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    text = f'nodes: {{one: {{kind: process, command: [sh, -c, "{stubborn}"]}}}}'
    file = machine.file("slow.yaml", text)
    machine.oxyctl("lab", "up", file)
    eventually(lambda: machine.oxyctl("lab", "logs", "one").stdout == "ready\n", "it is ready to be stubborn")
    before = machine.supervisor()
    os.kill(before, number)
    machine.oxyctl("lab", "up", file)  # at once: the supervisor may not have noticed the signal yet
    assert machine.supervisor() != before
