"""The program of an SSH session, on a terminal or on pipes: environment, input, output, exit."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import signal
import struct
import termios
from dataclasses import dataclass

import asyncssh

from oxyctl.services.child import Child, on_terminal, spawn
from oxyctl.services.host import Host
from oxyctl.services.ssh.pumps import Drain, Source

END_OF_FILE = b"\x04"  # Ctrl-D: a terminal has no half-close
STANDARD_ERROR = 1  # RFC 4254 5.2, SSH_EXTENDED_DATA_STDERR
NAMED_SIGNALS = {int(number): number.name.removeprefix("SIG") for number in signal.Signals}


@dataclass(frozen=True)
class Account:
    """The account of every client: the user that runs the services."""

    name: str
    home: str
    shell: str

    @classmethod
    def current(cls) -> Account:
        """The current user in the password database, if listed; home is / if it is not accessible (user namespaces)."""
        try:
            entry = pwd.getpwuid(os.geteuid())
            name, home, shell = entry.pw_name, entry.pw_dir, entry.pw_shell or "/bin/sh"
        except KeyError:
            name, home, shell = str(os.geteuid()), os.environ.get("HOME", "/"), "/bin/sh"
        return cls(name, home if os.access(home, os.X_OK) else "/", shell if os.access(shell, os.X_OK) else "/bin/sh")


class Program:
    """A shell, or a command run by the shell; on a terminal if the client requested one."""

    def __init__(self, host: Host, channel: asyncssh.SSHServerChannel[bytes], command: str | None) -> None:
        """Start the program. OSError: it cannot be started."""
        self._channel = channel
        self._account = Account.current()
        self._terminal: int | None = None
        self._outputs: list[Source] = []
        if channel.get_terminal_type() is None:
            self._child = self._start_on_pipes(host, command)
        else:
            self._child = self._start_on_terminal(host, command)
        self.exited: asyncio.Future[int] = self._child.exited
        self.exited.add_done_callback(self._ended)

    def write(self, data: bytes) -> None:
        """Write to its input; the channel is paused while too much waits."""
        self._input.write(data)
        if self._input.is_full:
            self._channel.pause_reading()

    def end_input(self) -> None:
        """Close its input."""
        if self._terminal is None:
            self._input.end()
        else:
            self._input.write(END_OF_FILE)

    def pause(self) -> None:
        """Stop reading its output, since the client does not read it."""
        for output in self._outputs:
            output.pause()

    def resume(self) -> None:
        """Read its output again."""
        for output in self._outputs:
            output.resume()

    def signal(self, name: str) -> None:
        """Send a signal, named without SIG (RFC 4254 6.9); unknown names are ignored."""
        if (number := getattr(signal, f"SIG{name}", None)) is not None:
            self._child.signal(number)

    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """Set the size of the terminal, in characters and in pixels."""
        if self._terminal is not None:
            size = struct.pack("HHHH", *(min(n, 0xFFFF) for n in (rows, columns, width, height)))
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def disconnect(self) -> None:
        """Close everything: the client has disconnected or received the exit status. A running program gets SIGHUP."""
        self._input.close()
        for output in self._outputs:
            output.close()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        self._child.signal(signal.SIGHUP)

    async def kill(self) -> None:
        """Kill the program."""
        await self._child.kill()

    def _start_on_pipes(self, host: Host, command: str | None) -> Child:
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        ours = [pipes[0][1], pipes[1][0], pipes[2][0]]
        try:
            child = self._spawn(host, self._command(command), theirs, self._environment(host))
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        self._input = Drain(ours[0], self._channel.resume_reading)
        self._outputs = [Source(ours[1], self._on_output), Source(ours[2], self._on_error_output)]
        return child

    def _start_on_terminal(self, host: Host, command: str | None) -> Child:
        ours, theirs = os.openpty()
        self._terminal = ours
        try:
            self.resize(*self._channel.get_terminal_size())
            shell, *arguments = self._command(command)
            terminal = on_terminal(self._account.shell, shell, *arguments)
            child = self._spawn(host, terminal, [theirs] * 3, self._environment(host, os.ttyname(theirs)))
        except BaseException:
            _close([ours])
            raise
        finally:
            _close([theirs])
        self._input = Drain(os.dup(ours), self._channel.resume_reading)
        self._outputs = [Source(os.dup(ours), self._on_output)]
        return child

    def _command(self, command: str | None) -> list[str]:
        if command is not None:
            return [self._account.shell, "-c", command]
        return ["-" + os.path.basename(self._account.shell)]  # the name of a login shell

    def _spawn(self, host: Host, command: list[str], files: list[int], environment: dict[str, str]) -> Child:
        executable = self._account.shell if self._terminal is None else None
        stdin, stdout, stderr = files
        return spawn(
            host,
            command,
            executable=executable,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=self._account.home,
            env=environment,
        )

    def _environment(self, host: Host, terminal: str | None = None) -> dict[str, str]:
        peer, own = (self._channel.get_extra_info(name) for name in ("peername", "sockname"))
        environment = {
            **self._channel.get_environment(),
            "HOME": self._account.home,
            "LOGNAME": self._account.name,
            "USER": self._account.name,
            "SHELL": self._account.shell,
            "PATH": os.environ.get("PATH", os.defpath),
            **host.environment,
            "SSH_CLIENT": f"{peer[0]} {peer[1]} {own[1]}",
            "SSH_CONNECTION": f"{peer[0]} {peer[1]} {own[0]} {own[1]}",
        }
        if terminal is not None:
            environment |= {"SSH_TTY": terminal, "TERM": self._channel.get_terminal_type() or "dumb"}
        return environment

    def _on_output(self, data: bytes) -> None:
        if data:
            self._channel.write(data)
        else:
            self._output_ended()

    def _on_error_output(self, data: bytes) -> None:
        if data:
            self._channel.write(data, STANDARD_ERROR)
        else:
            self._output_ended()

    def _output_ended(self) -> None:
        if any(output.is_open for output in self._outputs):
            return
        if not self._channel.is_closing():
            self._channel.write_eof()
        self._finish()

    def _ended(self, _: asyncio.Future[int]) -> None:
        if self._terminal is not None:
            for output in self._outputs:
                output.drain()
        self._finish()

    def _finish(self) -> None:
        """Send its exit status to the client, once it has ended and all output has been sent (as sshd does)."""
        if not self.exited.done() or self.exited.cancelled() or any(output.is_open for output in self._outputs):
            return
        code = self.exited.result()
        if code >= 0:
            self._channel.exit(code)
        elif -code in NAMED_SIGNALS:
            self._channel.exit_with_signal(NAMED_SIGNALS[-code])
        else:
            self._channel.exit(128 - code)  # as a shell reports it


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
