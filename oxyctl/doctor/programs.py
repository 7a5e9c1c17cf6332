"""Programs that labs, checks and examples use when they are installed."""

from __future__ import annotations

import shutil
from functools import partial

from oxyctl.doctor.finding import Outcome, Trial

# program: its Debian package, and its purpose
PROGRAMS = {
    "curl": ("curl", "manual HTTP requests"),
    "ping": ("iputils-ping", "manual echo requests"),
    "ssh": ("openssh-client", "manual SSH sessions"),
    "iperf3": ("iperf3", "manual throughput tests"),
    "dig": ("dnsutils", "manual DNS queries"),
    "traceroute": ("traceroute", "tracing routes manually"),
    "mtr": ("mtr-tiny", "tracing routes manually"),
    "nft": ("nftables", "unread flows as packets (offramp: kernel)"),
    "conntrack": ("conntrack", "listing the kernel's connections"),
    "tcpdump": ("tcpdump", "oxyctl capture --filter"),
    "tshark": ("tshark", "reading captures in a terminal"),
    "nginx": ("nginx-light", "origin servers of your own"),
}


def trials() -> list[Trial]:
    """Trials of programs. None is required."""
    return [
        Trial(name, needed_for, partial(_find, name), fix=f"sudo apt install {package}")
        for name, (package, needed_for) in PROGRAMS.items()
    ]


def _find(program: str) -> Outcome:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    return Outcome("ok", path) if path else Outcome("missing", "not installed")
