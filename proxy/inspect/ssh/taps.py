"""Selects the tap of a channel: for file operations of sftp and scp, or to record a terminal."""

from __future__ import annotations

from collections.abc import Callable

import asyncssh

from proxy.errors import ProxyError
from proxy.inspect.ssh.channels import Tap
from proxy.inspect.ssh.recording import Recorder
from proxy.inspect.ssh.ruling import Ruled
from proxy.inspect.ssh.scp import ScpTap, parse_scp
from proxy.inspect.ssh.sftp import SftpTap
from proxy.inspect.ssh.terminal import Terminal
from proxy.wire.age import recipient

NO_TERMINAL = "dumb"  # the terminal type in recordings of channels without a terminal


async def tap_for(
    ruled: Ruled,
    terminal: str | None,
    size: tuple[int, ...],
    reply: Callable[[bytes], None],
    tell: Callable[[bytes], None],
    end: Callable[[str], None],
) -> Tap | None:
    """The tap of a channel, or None. `reply` writes to the client, `tell` to its standard error; `end` ends the channel
    with a message for the user.

    ChannelOpenError: it must be recorded and cannot be.
    """
    view, rules = ruled.owner.view, ruled.owner.view.rules
    shown, transfer = None, ruled.transfer
    if transfer is None and terminal is not None:
        shown = Terminal((size[0], size[1]), terminal, takes_input=rules.record_input, end=end)
        if rules.record:
            await _record(ruled, shown, reply)
    elif transfer is None and rules.record_commands and ruled.subsystem is None:
        shown = Terminal((0, 0), NO_TERMINAL, takes_input=False, end=end, has_carriage_returns=False)
        await _record(ruled, shown, tell)
    if ruled.is_over:  # the client has left meanwhile
        if shown is not None:
            shown.close()
        return None
    ruled.terminal = terminal
    view.opened(ruled.channel_id, end, shown)
    ruled.opened()
    if transfer == "sftp":
        return SftpTap(ruled.file, reply, read_only=rules.file_transfer == "read-only", hashes=rules.hash_files)
    if shown is not None:
        return shown
    if ruled.command is not None and (command := parse_scp(ruled.command)) is not None:
        return ScpTap(command, ruled.file, hashes=rules.hash_files)
    return None


async def _record(ruled: Ruled, terminal: Terminal, reply: Callable[[bytes], None]) -> None:
    """Record the terminal. If that fails, the user is informed, whether or not the session continues."""
    rules = ruled.owner.view.rules

    def failed(why: str) -> None:
        ruled.error = why
        if rules.needs_recording:
            terminal.end(why)
        else:
            reply(f"\r\nnot recorded any more: {why}\r\n".encode())

    name = f"{ruled.channel_id}.cast" + (".age" if rules.recording_keys else "")
    try:
        descriptor = await ruled.owner.view.recording(name)
    except ProxyError as error:
        ruled.error = str(error)
        if rules.needs_recording:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, str(error)) from error
        reply(f"not recorded: {error}\r\n".encode())
        return
    ruled.recording = name
    recorder = Recorder(descriptor, terminal.size, terminal.name, version=rules.recording_version,
                        recipients=[recipient(key) for key in rules.recording_keys], most=rules.recording_bytes,
                        failed=failed)  # fmt: skip
    terminal.listen(recorder)
