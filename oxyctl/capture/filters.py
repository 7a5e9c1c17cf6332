"""Filter expressions: compiled by tcpdump, run by the kernel before a packet costs us anything."""

from __future__ import annotations

import ctypes
import socket
import struct
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from oxyctl.capture import pcapng
from oxyctl.errors import OxyctlError, UsageError

SO_ATTACH_FILTER = 26  # asm-generic/socket.h
RETURN_CONSTANT = 0x06  # linux/bpf_common.h: BPF_RET | BPF_K
COMPILE_TIMEOUT_S = 10
_LINK_TYPES = {pcapng.ETHERNET: "EN10MB", pcapng.RAW_IP: "RAW"}


class Instruction(NamedTuple):
    """One instruction of a classic BPF program (linux/filter.h)."""

    code: int
    jump_true: int
    jump_false: int
    value: int


Program = Sequence[Instruction]


def compile_filter(expression: str | None, link_type: int, snaplen: int) -> Program:
    """A program that accepts what `expression` does (None: everything) and cuts it to `snaplen` bytes.

    UsageError: tcpdump does not understand it; OxyctlError: tcpdump is not installed.
    """
    if expression is None:
        return [Instruction(RETURN_CONSTANT, 0, 0, snaplen)]
    command = ["tcpdump", "-y", _LINK_TYPES[link_type], "-s", str(snaplen), "-ddd", "--", expression]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=COMPILE_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise OxyctlError(
            "--filter needs tcpdump, which compiles the expression: `sudo apt install tcpdump`; "
            "or capture everything with -w and filter it in Wireshark"
        ) from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise OxyctlError(f"tcpdump could not compile the filter: {error}") from None
    if done.returncode != 0:
        raise UsageError(f"--filter {expression!r}: {_reason(done.stderr)}")
    return _parse(done.stdout)


def attach(sock: socket.socket, program: Program) -> None:
    """Make the kernel pass to `sock` only what `program` accepts."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(buffer)))


def _parse(text: str) -> Program:
    """Parse the output of `tcpdump -ddd`: the number of instructions, then four numbers per line."""
    _, *lines = text.split("\n")
    return [Instruction(*map(int, line.split())) for line in lines if line]


def _reason(output: str) -> str:
    lines = [line for line in output.splitlines() if line and not line.startswith("Warning")]
    return lines[-1].removeprefix("tcpdump: ") if lines else "tcpdump does not accept it"
