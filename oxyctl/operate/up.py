"""`up`: starts a supervisor, follows its progress and commits; on any failure, takes down what was built."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from oxyctl.errors import OxyctlError, UsageError
from oxyctl.operate import down
from oxyctl.operate.ask import ask_status
from oxyctl.operate.kernel_tunnels import supported_kinds_for
from oxyctl.operate.leftovers import delete
from oxyctl.plan.diff import is_same
from oxyctl.plan.make import make_plan
from oxyctl.plan.steps import Plan
from oxyctl.supervise.processes import tail
from oxyctl.supervise.requests import COMMIT
from oxyctl.supervise.state import LabDirectory, State, lab_directory, locked
from oxyctl.topology.model import Lab

Event = dict[str, Any]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
END_TIMEOUT_S = 10
SUPERVISOR = "oxyctl.supervise.supervisor"


class Interrupted(BaseException):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def up(lab: Lab, timeout_s: float, on_event: Callable[[Event], None]) -> bool:
    """Bring `lab` up, completely or not at all; `on_event` gets each event. False: it was up with this plan already.

    OxyctlError: it failed. UsageError: it is up with another plan. Interrupted: a signal has ended the build.
    """
    directory = lab_directory(lab.name)
    plan = make_plan(lab, directory.path, supported_kinds_for(lab))
    with _interruptible(), locked_for_change(lab.name) as lock:
        state = _current_state(directory)
        if state is not None and state.phase != "stopping":
            _check_same(directory, plan, state)
            return False
        if state is not None:
            down.end(state)
        delete(directory)
        try:
            _write_plan(directory, plan)
            _launch(directory, lock, timeout_s, on_event)
        except BaseException:
            delete(directory)
            raise
    return True


def _current_state(directory: LabDirectory) -> State | None:
    """The state after the supervisor has answered a request, and so has handled all earlier signals."""
    state = directory.live_state()
    if state is not None and state.phase == "up":
        with contextlib.suppress(OxyctlError):
            ask_status(directory)
        state = directory.live_state()
    return state


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        for signal_number in SIGNALS:
            signal.signal(signal_number, signal.SIG_IGN)  # only once: taking the lab down is not interrupted
        raise Interrupted(number)

    previous = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def locked_for_change(name: str) -> Iterator[int]:
    """Lock lab `name` until the block ends; yield the lock's descriptor. OxyctlError: another command holds it."""
    try:
        with locked(name, wait=False) as fd:
            yield fd
    except BlockingIOError:
        raise OxyctlError(f"another command is building lab '{name}' or taking it down") from None


def _check_same(directory: LabDirectory, plan: Plan, state: State) -> None:
    running = directory.read_plan()
    if running is None or not is_same(running, plan):
        raise UsageError(
            f"lab '{plan.lab}' is already up with another topology, from {state.source}: "
            f"change it with `oxyctl lab apply`, or choose another --name"
        )


def _write_plan(directory: LabDirectory, plan: Plan) -> None:
    content = msgspec.json.format(msgspec.json.encode(plan), indent=1)
    with _translated_errors(directory):
        directory.log("supervisor").parent.mkdir(mode=0o700, parents=True)
        (directory.path / "plan.json").write_bytes(content)


@contextlib.contextmanager
def _translated_errors(directory: LabDirectory) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OxyctlError(f"cannot write to the run directory: {directory.path}: {error.strerror}") from None


def _launch(directory: LabDirectory, lock: int, timeout_s: float, on_event: Callable[[Event], None]) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        try:
            with theirs:
                _start(directory, theirs.fileno(), lock, timeout_s)
            _follow(ours, directory, on_event)
        except BaseException:
            ours.shutdown(socket.SHUT_WR)  # tells the supervisor that the command has ended, so it ends too
            _wait_until_ended(ours, directory)
            raise


def _start(directory: LabDirectory, channel: int, lock: int, timeout_s: float) -> None:
    """Start the supervisor. The started process ends as soon as its child, PID 1 of the lab, is independent."""
    module = [sys.executable, "-P", "-m", *SUPERVISOR.split()]
    with _translated_errors(directory), directory.log("supervisor").open("ab") as log:
        subprocess.run(
            [*module, str(directory.path), str(channel), str(lock), str(timeout_s)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(channel, lock),
            check=False,  # errors are reported through the channel
        )


def _follow(channel: socket.socket, directory: LabDirectory, on_event: Callable[[Event], None]) -> None:
    """Pass events to `on_event` and commit the lab; return when its supervisor runs alone. OxyctlError: it failed."""
    with contextlib.suppress(ConnectionError), channel.makefile("rb") as lines:  # reset: the supervisor was killed
        for line in lines:
            event: Event = msgspec.json.decode(line)
            if event["event"] == "failed":
                raise OxyctlError(str(event["error"]))
            if event["event"] == "up":
                channel.sendall(COMMIT)
            on_event(event)
    state = directory.live_state()
    if state is None or state.phase != "up":
        raise OxyctlError(f"the lab's supervisor ended; its log:\n{tail(directory.log('supervisor'))}")


def _wait_until_ended(channel: socket.socket, directory: LabDirectory) -> None:
    """Return when the supervisor and its lab have ended. It has written its PID before building anything."""
    channel.settimeout(END_TIMEOUT_S)
    with contextlib.suppress(OSError):
        while channel.recv(65_536):
            pass
    if (state := directory.live_state()) is not None:
        down.end(state)
