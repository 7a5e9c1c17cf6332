"""Runs a command under a stock Debian kernel: qemu boots it on this machine's own file system in a few seconds.

    features     features of a kernel, determined by trial
    image        Debian's kernel package, unpacked into a cache
    initramfs    the first file system of the guest, and the script that puts this machine's in its place
    machine      qemu: the command's output and its exit code

The guest sees `/` read-only below a file system in memory: the interpreter, the checkout and its virtual environment
are at their usual places, and what the command writes is lost. It has no network besides its own loopback. Neither root
nor KVM is needed; qemu-system-x86, busybox-static and kmod are, and for the first run a Debian apt after
`apt-get update`.
"""
