"""Who reads along on a channel: the file operations of sftp, the recording of a terminal."""

from __future__ import annotations

from collections.abc import Callable

import asyncssh

from proxy.errors import ProxyError
from proxy.inspect.ssh.channels import Tap
from proxy.inspect.ssh.recording import Recorder
from proxy.inspect.ssh.ruling import Ruled
from proxy.inspect.ssh.sftp import SftpTap


async def tap_for(
    ruled: Ruled,
    terminal: str | None,
    size: tuple[int, ...],
    reply: Callable[[bytes], None],
    end: Callable[[str], None],
) -> Tap | None:
    """None where nobody reads along. `reply` writes to the client, `end` ends the channel, with words for the user.

    ChannelOpenError when it has to be recorded and cannot be.
    """
    rules = ruled.owner.view.rules
    if ruled.subsystem == "sftp":
        return SftpTap(ruled.file, reply, read_only=rules.file_transfer == "read-only")
    if terminal is None or not rules.record:
        return None

    def failed(why: str) -> None:
        ruled.error = why
        if rules.needs_recording:
            end(why)

    try:
        descriptor = await ruled.owner.view.recording(ruled.channel_id)
    except ProxyError as error:
        ruled.error = str(error)
        if rules.needs_recording:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, str(error)) from error
        return None
    ruled.recording = f"{ruled.channel_id}.cast"
    return Recorder(descriptor, (size[0], size[1]), terminal, takes_input=rules.record_input,
                    most=rules.recording_bytes, failed=failed)  # fmt: skip
