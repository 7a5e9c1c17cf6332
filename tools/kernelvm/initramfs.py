"""The guest's first file system, in memory: busybox, a few modules, and a script that mounts the machine's own."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from tools.kernelvm.image import ImageError, decompressed, module_name, modules_of, with_dependencies

MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")  # to mount the machine's file system
ROOT_TAG = "root"

# 9p below overlayfs: python and the tests read from the machine, and write into memory. `cache=loose` as nobody changes
# what they read; `/run`, `/dev/shm` and the cgroups are the guest's own.
INIT = """#!/bin/busybox sh
B=/bin/busybox
fail() { echo "GUEST-FAILED $*"; $B poweroff -f; }
$B mkdir -p /proc /sys /dev /lower /upper /new
$B mount -t proc proc /proc
$B mount -t devtmpfs dev /dev
for module in $($B cat /load); do $B insmod "/modules/$module" || fail "insmod $module"; done
$B mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose %(tag)s /lower || fail "mount 9p"
$B mount -t tmpfs -o mode=755 tmpfs /upper
$B mkdir /upper/files /upper/work
$B mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /new || fail "mount overlay"
$B mount --move /proc /new/proc
$B mount --move /dev /new/dev
$B mount -t sysfs sys /new/sys
$B mkdir -p /new/dev/pts /new/dev/shm
$B mount -t devpts -o ptmxmode=666 devpts /new/dev/pts
$B mount -t tmpfs tmpfs /new/dev/shm
$B mount -t tmpfs -o mode=755 tmpfs /new/run
$B mount -t cgroup2 cgroup /new/sys/fs/cgroup
for link in fd: fd/0:stdin fd/1:stdout fd/2:stderr; do
  name=${link##*:}
  $B ln -sf "/proc/self/${link%%:*}" "/new/dev/${name:-fd}"
done
$B mkdir -p "/new/lib/modules/$($B uname -r)"
$B mount --bind "/lower%(modules)s" "/new/lib/modules/$($B uname -r)"
$B cp /command $B /new/run/
$B ip link set lo up
$B hostname kernelvm
exec $B switch_root /new /bin/sh /run/command
"""


def initramfs(kernel: Path, command: str) -> bytes:
    """An archive for the kernel unpacked in `kernel`: its init makes the guest ready and runs the script `command`."""
    modules = modules_of(kernel)
    files = {"bin/busybox": _busybox(), "command": command.encode()}
    names = []
    for file in with_dependencies(modules, MODULES):
        names.append(f"{module_name(file)}.ko")
        files[f"modules/{names[-1]}"] = decompressed((modules / file).read_bytes())
    files["load"] = " ".join(names).encode()
    files["init"] = (INIT % {"tag": ROOT_TAG, "modules": modules.resolve()}).encode()
    return cpio(files)


def cpio(files: Mapping[str, bytes]) -> bytes:
    """An archive in the `newc` format (Documentation/driver-api/early-userspace/buffer-format.rst); all executable."""
    directories = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    archive = bytearray()
    for inode, name in enumerate(directories, start=1):
        archive += _entry(inode, name, stat.S_IFDIR | 0o755)
    for inode, (name, data) in enumerate(files.items(), start=len(directories) + 1):
        archive += _entry(inode, name, stat.S_IFREG | 0o755, data)
    return bytes(archive + _entry(0, "TRAILER!!!", 0))


def _entry(inode: int, name: str, mode: int, data: bytes = b"") -> bytes:
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device, device of a special file (both two numbers), name, checksum
    numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _busybox() -> bytes:
    found = shutil.which("busybox")
    if found is None:
        raise ImageError("busybox is not installed: apt-get install busybox-static")
    return Path(found).read_bytes()
