"""One SSH session channel: a program inside the node's namespace, or a file transfer by asyncssh."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, cast

import asyncssh
from asyncssh.channel import SSHChannel
from asyncssh.stream import SSHServerStreamSession

from oxyctl.services.host import Host
from oxyctl.services.ssh.program import Account, Program

SFTP_VERSION = 3  # as in OpenSSH
Channel = asyncssh.SSHServerChannel[bytes]


class Files(asyncssh.SFTPServer):
    """The file system as programs of the node see it; relative paths begin at the account's home directory."""

    def __init__(self, channel: Channel, root: int | None) -> None:
        """`root`: a descriptor of the node's root directory, if that differs from ours."""
        super().__init__(channel)
        self._root = None if root is None else b"/proc/self/fd/%d" % root

    def map_path(self, path: bytes) -> bytes:
        absolute = os.path.join(os.fsencode(Account.current().home), path)
        return absolute if self._root is None else self._root + os.path.normpath(absolute)

    def realpath(self, path: bytes) -> Any:
        """The path in the node; if its files differ from ours, links in the path are not resolved."""
        mapped = self.map_path(path)
        return super().realpath(path) if self._root is None else mapped.removeprefix(self._root)

    def symlink(self, oldpath: bytes, newpath: bytes) -> Any:
        """The target is stored as given: the node's programs resolve it."""
        if self._root is None:
            return super().symlink(oldpath, newpath)
        os.symlink(oldpath, self.map_path(newpath))
        return None

    def exit(self) -> None:
        """Report success, as sftp-server does when its client has finished: otherwise scp reports a failure."""
        self.channel.exit(0)


class Session(SSHServerStreamSession[bytes]):
    """Runs what the client requests. scp and sftp need no program: the base class has both."""

    def __init__(self, host: Host, programs: set[Program], root: int | None) -> None:
        super().__init__(None, cast(Any, partial(Files, root=root)), SFTP_VERSION, allow_scp=True)
        self._host, self._programs = host, programs
        self._program: Program | None = None
        self._channel: Channel | None = None

    def connection_made(self, chan: SSHChannel[bytes]) -> None:
        super().connection_made(chan)
        assert isinstance(chan, asyncssh.SSHServerChannel)
        self._channel = chan

    def connection_lost(self, exc: Exception | None) -> None:
        if self._program is not None:
            self._program.disconnect()
        super().connection_lost(exc)

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        return True

    def session_started(self) -> None:
        assert self._channel is not None
        command, subsystem = self._channel.get_command(), self._channel.get_subsystem()
        if subsystem is not None or (command or "").startswith("scp "):
            super().session_started()
            return
        try:
            self._program = Program(self._host, self._channel, command)
        except OSError as error:
            self._channel.write_stderr(f"cannot start the shell: {error}\r\n".encode())
            self._channel.exit(127)
            return
        self._programs.add(self._program)
        self._program.exited.add_done_callback(self._forget)

    def _forget(self, _: object) -> None:
        if self._program is not None:
            self._programs.discard(self._program)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._program is None:
            super().data_received(data, datatype)
        else:
            self._program.write(data)

    def eof_received(self) -> bool:
        if self._program is not None:
            self._program.end_input()
        return super().eof_received()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._program is not None:
            self._program.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._program is not None:
            self._program.resume()

    def signal_received(self, signal: str) -> None:
        if self._program is not None:
            self._program.signal(signal)

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._program is not None:
            self._program.resize(width, height, pixwidth, pixheight)

    def break_received(self, msec: int) -> bool:
        return False

    def soft_eof_received(self) -> None:
        """Ignored: only a line editor sends it, and there is none."""
