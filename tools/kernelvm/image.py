"""Debian's kernel package, downloaded by apt and unpacked into a cache: the kernel itself, and its modules."""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oxyctl" / "kernels"
META_PACKAGE = "linux-image-amd64"
# drivers of hardware that the guest does not have
LEFT_OUT = [
    *("ata", "bluetooth", "comedi", "edac", "gpu", "hid", "hwmon", "i2c", "iio", "infiniband", "input", "isdn", "md"),
    *("media", "message", "mfd", "mtd", "net/ethernet", "net/wireless", "platform", "scsi", "staging", "target", "usb"),
]
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# the boot protocol's header (Documentation/arch/x86/boot.rst)
SETUP_SECTORS, PAYLOAD_OFFSET, SECTOR = 0x1F1, 0x248, 512


class ImageError(Exception):
    """There is no kernel to boot, for the reason in `str()`."""


def newest() -> Path:
    """The directory of the newest kernel in the cache; fetched if there is none."""
    found = sorted(CACHE.glob("linux-image-*"), key=_version)
    return found[-1] if found else fetch()


def fetch() -> Path:
    """Download and unpack Debian's current kernel. Returns its directory. ImageError."""
    package = _package()
    target = CACHE / package
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="partial-") as name:
        directory = Path(name) / package
        directory.mkdir()
        _run("apt-get", "download", "--quiet=2", "--option", "APT::Sandbox::User=root", package, cwd=directory)
        (archive,) = directory.glob("*.deb")
        _unpack(archive, directory)
        (boot,) = (directory / "boot").glob("vmlinuz-*")
        (directory / "vmlinux").write_bytes(payload(boot.read_bytes()))
        _run("depmod", "--basedir", str(directory), modules_of(directory).name)
        with contextlib.suppress(OSError):  # another process was faster
            directory.rename(target)
    return target


def modules_of(directory: Path) -> Path:
    """The directory of modules of an unpacked kernel."""
    (found,) = (directory / "lib" / "modules").iterdir()
    return found


def with_dependencies(directory: Path, names: Sequence[str]) -> list[str]:
    """The files of the modules `names` and of those that they need, in the order in which to load them.

    A module that has no file is built in.
    """
    needs = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[module_name(file)] = [*reversed(others.split()), file]
    return list(dict.fromkeys(file for name in names for file in needs.get(name, [])))


def module_name(file: str) -> str:
    """The name in a path: `9pnet_virtio` for `kernel/net/9p/9pnet_virtio.ko.xz`."""
    return Path(file).name.partition(".ko")[0].replace("-", "_")


def payload(image: bytes) -> bytes:
    """The kernel inside a bzImage. Booted directly, it need not unpack itself, which takes qemu seconds."""
    offset, size = struct.unpack_from("<II", image, PAYLOAD_OFFSET)
    start = ((image[SETUP_SECTORS] or 4) + 1) * SECTOR + offset
    kernel = decompressed(image[start : start + size])
    if not kernel.startswith(b"\x7fELF"):
        raise ImageError("the kernel's payload is not an ELF file")
    return kernel


def decompressed(data: bytes) -> bytes:
    """The content of `data`, which may be compressed by xz or zstd. ImageError."""
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(data)  # the size follows the payload: not the end of a file
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        if shutil.which("zstd") is None:
            raise ImageError("this kernel is compressed by zstd: apt-get install zstd")
        # for the same reason zstd reports an error about what follows
        return subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return data


def _package() -> str:
    """The package of a kernel; for the meta package, the one on which it depends now."""
    told = _run("apt-cache", "depends", "--important", META_PACKAGE)
    found = re.search(r"Depends: (linux-image-\d\S+)", told)
    if found is None:
        raise ImageError(f"apt knows no {META_PACKAGE}: run `apt-get update` on a Debian system")
    return found[1]


def _unpack(archive: Path, directory: Path) -> None:
    left_out = [f"--exclude=*/kernel/drivers/{driver}/*" for driver in LEFT_OUT]
    command = ["tar", "-x", "-C", str(directory), *left_out, "--exclude=*/kernel/sound/*", "--exclude=./usr/share"]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as package:
        done = subprocess.run(command, stdin=package.stdout, check=False)
    if done.returncode or package.returncode:
        raise ImageError(f"cannot unpack {archive.name}")
    archive.unlink()


def _run(*command: str, cwd: Path | None = None) -> str:
    """The output of `command`. ImageError with its error output."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, env=os.environ | {"PATH": SBIN}, check=False
        )
    except FileNotFoundError:
        raise ImageError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise ImageError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def _version(directory: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", directory.name)]
