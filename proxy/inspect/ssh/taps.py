"""Selects the tap of a channel: for file operations of sftp and scp, or to record a terminal."""

from __future__ import annotations

from collections.abc import Callable

import asyncssh

from proxy.errors import ProxyError
from proxy.inspect.ssh.channels import Tap
from proxy.inspect.ssh.recording import Recorder
from proxy.inspect.ssh.ruling import ChannelState
from proxy.inspect.ssh.scp import ScpTap, parse_scp
from proxy.inspect.ssh.sftp import SftpTap
from proxy.inspect.ssh.terminal import Terminal
from proxy.wire.age import recipient

NO_TERMINAL = "dumb"  # the terminal type in recordings of channels without a terminal


async def tap_for(
    state: ChannelState,
    terminal: str | None,
    size: tuple[int, ...],
    reply: Callable[[bytes], None],
    notify: Callable[[bytes], None],
    end: Callable[[str], None],
) -> Tap | None:
    """The tap of a channel, or None. `reply` writes to the client, `notify` to its standard error; `end` ends the
    channel with a message for the user.

    ChannelOpenError: it must be recorded and cannot be.
    """
    view, rules = state.owner.view, state.owner.view.rules
    terminal_tap, transfer = None, state.transfer
    if transfer is None and terminal is not None:
        terminal_tap = Terminal((size[0], size[1]), terminal, takes_input=rules.record_input, end=end)
        if rules.record:
            await _record(state, terminal_tap, reply)
    elif transfer is None and rules.record_commands and state.subsystem is None:
        terminal_tap = Terminal((0, 0), NO_TERMINAL, takes_input=False, end=end, has_carriage_returns=False)
        await _record(state, terminal_tap, notify)
    if state.is_over:  # the client has disconnected meanwhile
        if terminal_tap is not None:
            terminal_tap.close()
        return None
    state.terminal = terminal
    view.opened(state.channel_id, end, terminal_tap)
    state.opened()
    if transfer == "sftp":
        return SftpTap(state.file, reply, read_only=rules.file_transfer == "read-only", hashes=rules.hash_files)
    if terminal_tap is not None:
        return terminal_tap
    if state.command is not None and (command := parse_scp(state.command)) is not None:
        return ScpTap(command, state.file, hashes=rules.hash_files)
    return None


async def _record(state: ChannelState, terminal: Terminal, reply: Callable[[bytes], None]) -> None:
    """Record the terminal. If that fails, the user is informed, whether or not the session continues."""
    rules = state.owner.view.rules

    def failed(why: str) -> None:
        state.error = why
        if rules.needs_recording:
            terminal.end(why)
        else:
            reply(f"\r\nnot recorded any more: {why}\r\n".encode())

    name = f"{state.channel_id}.cast" + (".age" if rules.recording_keys else "")
    try:
        descriptor = await state.owner.view.recording(name)
    except ProxyError as error:
        state.error = str(error)
        if rules.needs_recording:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, str(error)) from error
        reply(f"not recorded: {error}\r\n".encode())
        return
    state.recording = name
    recorder = Recorder(descriptor, terminal.size, terminal.name, version=rules.recording_version,
                        recipients=[recipient(key) for key in rules.recording_keys], most=rules.recording_bytes,
                        failed=failed)  # fmt: skip
    terminal.listen(recorder)
