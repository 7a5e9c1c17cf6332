"""Labs for tests: as root and rootless, in a run directory of the test's own, and nothing left at the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEADLINE_S = 20

# As root, a rootless user is played by one without any right, for whom /dev/net/tun is open as udev makes it elsewhere.
AS_NOBODY = f"""
place=$(mktemp -d) && mount -t tmpfs tun $place && mknod -m 666 $place/tun c 10 200 &&
mount --bind $place/tun /dev/net/tun && umount -l $place; rmdir $place
exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "$@"
"""


def eventually(is_so, what):
    """Return the first true value of `is_so()`; fails after a deadline."""
    pause, deadline = threading.Event(), time.monotonic() + DEADLINE_S
    while not (value := is_so()):
        assert time.monotonic() < deadline, f"never came true: {what}"
        pause.wait(0.02)
    return value


class Machine:
    """This machine as one user sees it: `oxyctl` with a run directory of its own."""

    def __init__(self, directory, is_rootless):
        self.directory, self.run = directory, directory / "run"
        self.is_rootless = is_rootless
        self.python, self.prefix = sys.executable, []
        self.environment = os.environ | {"OXYCTL_RUN_DIR": str(self.run), "PYTHONDONTWRITEBYTECODE": "1"}
        if is_rootless and os.geteuid() == 0:
            self.python = python_for_nobody()
            self.prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", AS_NOBODY, "sh"]
            packages = [path for path in sys.path if path.endswith("-packages")]
            self.environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *packages])}
            self.environment |= {"HOME": "/nonexistent", "PATH": PATH}
            os.chown(directory, NOBODY, NOBODY)

    def command(self, *arguments):
        """The words that run `oxyctl` with `arguments` as this user."""
        return [*self.prefix, self.python, "-m", "oxyctl", *map(str, arguments)]

    def oxyctl(self, *arguments, code=0, **options):
        """Run it to its end; what it printed. It must end with `code`."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=120, **options
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments, **options):
        """Start it; the process."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen(self.command(*arguments), env=self.environment, **pipes)

    def file(self, name, text):
        """A file that this user may read; its path."""
        path = self.directory / name
        path.write_text(text)
        return path

    def exec(self, node, *command, code=0, **options):
        """What `command` printed in `node` of the only lab."""
        return self.oxyctl("lab", "exec", node, "--", *command, code=code, **options).stdout

    def status(self, *name):
        """The parsed `lab status`."""
        return json.loads(self.oxyctl("lab", "status", *name, "--format", "json").stdout)

    def supervisor(self, *name):
        """The PID of a lab's supervisor."""
        return self.status(*name)["supervisor"]["pid"]


def python_for_nobody():
    """An interpreter of this version that everybody may execute."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        # by way of a shell: setpriv itself still has the right to execute anything
        check = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "sh", "-c", '"$0" -c ""']
        if subprocess.run([*check, candidate], capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip(f"no {name} that a user without rights may execute")


def processes_of(run):
    """The processes of labs in the run directory `run`: each has it in its environment."""
    needle = f"OXYCTL_RUN_DIR={run}\0".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and needle in (entry / "environ").read_bytes() + b"\0":
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


KINDS = ("net", "mnt", "pid", "uts", "ipc", "user")


def namespaces_of(pid):
    """The namespaces that a process is in, without our own, as `net:[4026532541]`."""
    found = set()
    for kind in KINDS:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return found - {os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}


@contextlib.contextmanager
def holding_namespaces(pids):
    """The namespaces of these processes. Held, so that the kernel gives their numbers to no other test's meanwhile."""
    held = {}
    for pid in pids:
        for name in namespaces_of(pid) - set(held):
            with contextlib.suppress(OSError):
                held[name] = os.open(f"/proc/{pid}/ns/{name.partition(':')[0]}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield set(held)
    finally:
        for fd in held.values():
            os.close(fd)


def users_of(namespaces):
    """The processes that are still in one of `namespaces`."""
    pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if namespaces_of(pid) & namespaces and not is_left_to_init(pid)]


def is_left_to_init(pid):
    """Whether the process has ended, and only the machine's init can remove it: some look once a second."""
    try:
        return state_of(pid) == ("Z", 1)
    except OSError:
        return True


def state_of(pid):
    """The letter of a process's state (proc(5)), and the PID of its parent. OSError: there is no such process."""
    state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return state, int(parent)


def links():
    """The interfaces of the namespace that the tests run in."""
    return sorted(os.listdir("/sys/class/net"))


def mounts(run):
    """Mounts outside that have to do with `run`."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(run) in line]


def lab_files(run):
    """What is left of labs; empty files that served as locks stay."""
    return sorted(str(path) for path in (run / "labs").glob("*"))


USERS = ["root", "rootless"]


def pytest_collection_modifyitems(config, items):
    """Where who builds a lab makes no difference, one user is enough: `pytest.mark.user`."""
    wanted = [item for item in items if is_wanted(item)]
    config.hook.pytest_deselected(items=[item for item in items if not is_wanted(item)])
    items[:] = wanted


def is_wanted(item):
    marker, params = item.get_closest_marker("user"), getattr(item, "callspec", None)
    if marker is None or params is None:
        return True
    user = params.params.get("machine", params.params.get("shared_machine"))
    return user in (None, *marker.args)


@pytest.fixture(params=USERS)
def machine(request):
    """A machine to build labs on. Whatever a test did, nothing of it is left."""
    with a_machine(request.param) as made:
        yield made


@pytest.fixture(scope="module", params=USERS)
def shared_machine(request):
    """The same for all tests of a file whose lab is as it was after each of them."""
    with a_machine(request.param) as made:
        yield made


@contextlib.contextmanager
def a_machine(user):
    """As one of `USERS` sees it."""
    if user == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
    directory = Path(tempfile.mkdtemp(prefix="oxyctl-test-"))  # not pytest's, through which only its user may pass
    directory.chmod(0o755)
    before = links()
    made = Machine(directory, user == "rootless")
    yield made
    try:
        with holding_namespaces(processes_of(made.run)) as namespaces:
            for lab in (made.run / "labs").glob("*"):
                made.oxyctl("lab", "down", lab.name)
            check_nothing_left(made, namespaces, before)
    finally:
        shutil.rmtree(directory)


def check_nothing_left(machine, namespaces, links_before):
    """Processes, namespaces, mounts, links and files: none of a lab that is down."""
    eventually(lambda: not processes_of(machine.run), f"no process of {machine.run}")
    eventually(lambda: not users_of(namespaces), f"nobody is in {namespaces}")
    assert mounts(machine.run) == []
    assert links() == links_before
    assert lab_files(machine.run) == []
