"""Programs that labs, checks and examples use when they are installed."""

from __future__ import annotations

import shutil
from functools import partial

from oxyctl.doctor.finding import Answer, Trial

# program: its Debian package, and its purpose
PROGRAMS = {
    "curl": ("curl", "HTTP by hand"),
    "ping": ("iputils-ping", "echo by hand"),
    "ssh": ("openssh-client", "SSH by hand"),
    "iperf3": ("iperf3", "throughput by hand"),
    "dig": ("dnsutils", "DNS by hand"),
    "traceroute": ("traceroute", "hops by hand"),
    "mtr": ("mtr-tiny", "hops by hand"),
    "nft": ("nftables", "unread flows as packets (offramp: kernel)"),
    "conntrack": ("conntrack", "the kernel's connections by hand"),
    "tcpdump": ("tcpdump", "oxyctl capture --filter"),
    "tshark": ("tshark", "reading captures in a terminal"),
    "nginx": ("nginx-light", "origins of your own"),
}


def trials() -> list[Trial]:
    """Trials of programs. None is required."""
    return [
        Trial(name, needed_for, partial(_find, name), fix=f"sudo apt install {package}")
        for name, (package, needed_for) in PROGRAMS.items()
    ]


def _find(program: str) -> Answer:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    return Answer("ok", path) if path else Answer("missing", "not installed")
