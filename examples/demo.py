"""The steps of `make demo`: a lab starts, a client's real traffic goes through the proxy, and its flows are listed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

LAB = Path(__file__).resolve().parent.parent / "labs" / "quickstart.yaml"
NAME = f"demo-{os.getpid()}"
OXYCTL = [sys.executable, "-m", "oxyctl"]

FETCH = """
import ssl, sys, urllib.request
lab_only = ssl._create_unverified_context()
print(len(urllib.request.urlopen(sys.argv[1], context=lab_only).read()), "bytes")
"""


def run(*words: str, check: bool = True) -> int:
    """Print a command, run it, and return its exit code. If one that must succeed fails, the demo ends."""
    typed = shlex.join(words)  # can be copied and run
    print(f"\n\033[1m$ {typed}\033[0m" if sys.stdout.isatty() else f"\n$ {typed}", flush=True)
    command = [*OXYCTL, *words[1:]] if words[0] == "oxyctl" else list(words)
    code = subprocess.run(command, check=False).returncode
    if check and code:
        raise SystemExit(code)
    return code


def inside(*words: str, check: bool = True) -> int:
    """The same inside the laptop of the lab."""
    return run("oxyctl", "lab", "exec", "--lab", NAME, "laptop", "--", *words, check=check)


def fetch(url: str, *, check: bool = True) -> None:
    """Get `url` with curl, or with Python if curl is not installed."""
    if shutil.which("curl"):
        inside(
            "curl",
            "-sSk",
            "--max-time",
            "10",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}, %{size_download} bytes\\n",
            url,
            check=check,
        )
    else:
        inside(sys.executable, "-c", FETCH, url, check=check)


def main() -> None:
    run("oxyctl", "lab", "up", str(LAB), "--name", NAME)
    try:
        fetch("http://web/")
        fetch("https://web/bytes/100000000")
        fetch("http://[fd00:50::10]/")
        if shutil.which("ping"):
            inside("ping", "-c", "2", "web")
        if shutil.which("iperf3"):
            inside("iperf3", "-c", "web", "-t", "2", "-f", "m")
        print("\nA closed port is refused at once, as it would be without a proxy:")
        fetch("http://web:81/", check=False)
        run("oxyctl", "flows", "--lab", NAME, "--tenant", "acme")
    finally:
        run("oxyctl", "lab", "down", NAME)


if __name__ == "__main__":
    main()
