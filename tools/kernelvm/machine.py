"""Runs qemu: boots the kernel, passes on the command's output, and returns its exit code."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oxyctl.net.syscalls import die_with_parent
from tools.kernelvm.image import ImageError, modules_of
from tools.kernelvm.initramfs import ROOT_TAG, initramfs

QEMU = "qemu-system-x86_64"
BEGIN, END = "GUEST-BEGIN", re.compile(r"GUEST-END (\d+)$")  # around the command's output
NO_STATUS = 125  # no status from the guest in time; the same code as docker's
LOW_PRIORITY = 10
PASSED_ON = ("PATH", "HOME", "LANG", "CI")
PASSED_ON_PREFIXES = ("PYTHON", "PYTEST", "VIRTUAL_ENV", "OXYCTL_")
CONSOLE = "console=ttyS0 quiet loglevel=1 panic=-1 8250.nr_uarts=1 i8042.nopnp i8042.noaux"
FASTER = "mitigations=off nokaslr cryptomgr.notests random.trust_cpu=on audit=0 apparmor=0 nowatchdog tsc=reliable"
UNHURRIED = "no_timer_check"  # on a busy machine an emulated timer may fail the check at boot, which would panic
FASTER_STILL = "rcupdate.rcu_expedited=1 init_on_alloc=0 net.ifnames=0"

LOADED = ("tun", "fou", "fou6")  # modules that the kernel does not load on demand

# The terminal must neither echo nor turn \\n into \\r\\n; the kernel's messages stay off it.
COMMAND = """%(exports)s
stty -F /dev/console -onlcr -echo
dmesg -n 1
modprobe -a %(modules)s
cd %(directory)s
echo %(begin)s
( %(command)s ) </dev/null
echo "GUEST-END $?"
exec /run/busybox poweroff -f
"""


@dataclass
class Machine:
    """The guest's resources: `memory` in qemu's notation, processors, seconds until it is stopped."""

    kernel: Path
    memory: str = "1G"
    processors: int = 1
    timeout_s: float = 900
    log: list[str] = field(default_factory=list)  # the guest's output before and after the command

    def run(self, command: Sequence[str]) -> int:
        """Print the output of `command` and return its exit code; NO_STATUS: the guest did not reach its end."""
        script = command_script(command, os.environ, Path.cwd())
        began = time.monotonic()
        with tempfile.NamedTemporaryFile(prefix="kernelvm-") as archive:
            archive.write(initramfs(self.kernel, script))
            archive.flush()
            status = self._boot(Path(archive.name))
        name = modules_of(self.kernel).name
        if status is None:
            print("\n".join(self.log[-40:]), file=sys.stderr)
            status, end = NO_STATUS, "no exit code: it crashed, or took too long"
        else:
            end = f"exit code {status}"
        print(f"kernelvm: Linux {name}, {time.monotonic() - began:.0f} s, {end}", file=sys.stderr)
        return status

    def _boot(self, archive: Path) -> int | None:
        if shutil.which(QEMU) is None:
            raise ImageError(f"{QEMU} is not installed: apt-get install qemu-system-x86")
        with subprocess.Popen(
            self.command(archive), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0, preexec_fn=_settle
        ) as qemu:
            watch = threading.Timer(self.timeout_s, qemu.kill)
            watch.daemon = True
            watch.start()
            try:
                assert qemu.stdout is not None
                return self._follow(raw.rstrip(b"\r\n").decode(errors="replace") for raw in qemu.stdout)
            finally:
                watch.cancel()
                qemu.kill()

    def _follow(self, lines: Iterator[str]) -> int | None:
        """Print the output between the marks, and return the exit code in the second one."""
        has_begun, status = False, None
        for line in lines:
            if not has_begun or status is not None:
                has_begun = has_begun or line.endswith(BEGIN)
                self.log.append(line)
            elif end := END.search(line):
                status = int(end[1])
                print(line[: end.start()], end="\n" if end.start() else "", flush=True)
            else:
                print(line, flush=True)
        return status

    def command(self, archive: Path) -> list[str]:
        """The command line of qemu: a serial line and this machine's file system are the only devices."""
        return [
            *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
            *("-M", "q35,usb=off,vmport=off", "-accel", "tcg,tb-size=256", "-cpu", "max"),
            *("-smp", str(self.processors), "-m", self.memory),
            *("-fsdev", f"local,id={ROOT_TAG},path=/,security_model=none,multidevs=remap,readonly=on"),
            *("-device", f"virtio-9p-pci,fsdev={ROOT_TAG},mount_tag={ROOT_TAG}"),
            *("-kernel", str(self.kernel / "vmlinux"), "-initrd", str(archive)),
            *("-append", " ".join((CONSOLE, FASTER, FASTER_STILL, UNHURRIED))),
        ]


def command_script(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> str:
    """The script for the guest's shell: `command` in `directory`, with the part of `environment` that applies there."""
    kept = {
        name: value for name, value in environment.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    } | {"TERM": "dumb"}
    return COMMAND % {
        "exports": "\n".join(f"export {name}={shlex.quote(value)}" for name, value in kept.items()),
        "modules": " ".join(LOADED),
        "directory": shlex.quote(str(directory)),
        "begin": BEGIN,
        "command": shlex.join(command),
    }


def _settle() -> None:
    """In qemu's process: end it with its parent, at low priority."""
    die_with_parent(signal.SIGKILL)
    os.nice(LOW_PRIORITY)
