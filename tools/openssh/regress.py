"""`python -m tools.openssh.regress [TEST ...]`: regression tests of OpenSSH, with and without the bridge.

Requires root, and Debian's openssh-tests and openssh-server. Prints a table in Markdown; exit code 1 if a test passes
only without the bridge, for no known reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from proxy.inspect.ssh.algorithms import KEX, available
from tools.openssh.through import bridging

SUITE = Path("/usr/lib/openssh/regress")
LIMIT_S = 480  # `rekey` sleeps for most of it
TESTS = (
    "connect", "connect-uri", "proxy-connect", "exit-status", "exit-status-signal", "stderr-data", "stderr-after-eof",
    "broken-pipe", "yes-head", "transfer", "envpass", "localcommand", "multiplex", "forwarding", "dynamic-forward",
    "forward-control", "rekey", "agent", "scp-uri", "scp3", "sftp-uri", "sftp-perm", "proto-version", "proto-mismatch",
    "banner", "kextype", "try-ciphers", "percent", "knownhosts", "keytype", "channel-timeout", "forcecommand",
    "key-options", "login-timeout", "host-expand", "multipubkey",
)  # fmt: skip

LISTING = ("rekey", "kextype", "try-ciphers")  # tests that try all algorithms: limited to those that the bridge offers

# A client of the proxy is not subject to the configuration of its server.
KNOWN = {
    "agent": "logs in by keys of its agent; the proxy shows a key of its own",
    "keytype": "each type of user and host key in turn; the proxy shows keys of its own",
    "multipubkey": "several keys for one login; the proxy shows one of its own",
    "rekey": "limits that its server sets are kept between the proxy and the server; the test looks at the client",
    "proto-mismatch": "looks into the log of its server for a client's wrong version; the proxy does not pass that on",
}


def main(names: list[str]) -> int:
    """Run all tests twice."""
    if os.geteuid() or not SUITE.is_dir():
        print("this needs root, and the package openssh-tests", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="openssh-") as directory:
        place = Path(directory, "regress")
        shutil.copytree(SUITE, place)
        os.makedirs("/run/sshd", exist_ok=True)
        wanted = names or list(TESTS)
        alone: dict[str, str] = {}
        through: dict[str, str] = {}
        path = os.path.join(directory, "bridge.sock")
        real = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin") or "sshd"
        wrapper = Path(directory, "sshd")
        script = Path(__file__).with_name("sshd.py")
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {script} "$@"\n')
        wrapper.chmod(0o755)
        client = Path(directory, "ssh")
        client.write_text(client_script(shutil.which("ssh") or "ssh"))
        client.chmod(0o755)
        more = {"TEST_SSH_SSHD": str(wrapper), "OXY_SSHD": real, "OXY_BRIDGE": path, "TEST_SSH_PORT": "5242"}
        with bridging(path, place):
            while not os.path.exists(path):
                time.sleep(0.01)
            for name in wanted:
                less = {"TEST_SSH_SSH": str(client)} if name in LISTING else {}
                alone[name], through[name] = run(place, name, less), run(place, name, more | less)
    print("| test | alone | through the proxy | |\n|---|---|---|---|")
    for name in wanted:
        print(
            f"| `{name}` | {alone[name]} | {through[name]} | {'' if through[name] == 'ok' else KNOWN.get(name, '')} |"
        )
    worse = [name for name in wanted if alone[name] == "ok" and through[name] != "ok"]
    passed = sum(through[name] == "ok" for name in wanted)
    print(f"\n{passed} of {len(wanted)} pass through the proxy, {sum(each == 'ok' for each in alone.values())} alone.")
    return int(any(name not in KNOWN for name in worse))


def client_script(ssh: str) -> str:
    """A script for `ssh` whose `-Q` lists only what a bridge offers, with arguments in the order used by the tests."""
    kex, ciphers, macs = available(KEX)
    lists = {"kex": kex, "cipher": ciphers, "mac": macs, "cipher-auth": [each for each in ciphers if "gcm" in each]}
    cases = "".join(f'{name}) printf "%s\\n" {" ".join(known_to(ssh, name, found))}; exit 0;;\n'
                    for name, found in lists.items())  # fmt: skip
    return f'#!/bin/sh\ncase "$*" in *"-Q "*) case "${{*##*-Q }}" in\n{cases}esac;; esac\nexec {ssh} "$@"\n'


def known_to(ssh: str, kind: str, names: list[str]) -> list[str]:
    """Those of `names` that this client supports too."""
    listed = subprocess.run([ssh, "-Q", kind], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in names if name in listed]


def run(place: Path, name: str, more: dict[str, str]) -> str:
    """Run one test. Returns `ok`, `skipped`, `failed` or `not done`."""
    environment = os.environ | {
        "TEST_SHELL": "sh", "TEST_SSH_SSH": "/usr/bin/ssh", "TEST_SSH_UNSAFE_PERMISSIONS": "1",
        "TEST_SSH_SFTPSERVER": "/usr/lib/openssh/sftp-server", "SUDO": "", "USER": "root", "LOGNAME": "root",
        "OBJ": str(place), "BUILDDIR": str(place), "TEST_SSH_PORT": "4242", "TEST_SSH_IPV6": "no",
    } | more  # fmt: skip
    command = ["sh", str(place / "test-exec.sh"), str(place), str(place / f"{name}.sh")]
    log = place / f"{name}.{'through' if more else 'alone'}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process.pid)
            process.wait()
    text = log.read_text(errors="replace")
    print(f"{name}: {code}", *text.strip().splitlines()[-3:], sep="\n    ", file=sys.stderr, flush=True)
    if code is None:
        return f"not done in {LIMIT_S} s"
    return "skipped" if "SKIPPED" in text else "ok" if code == 0 else "failed"


def end_group(leader: int) -> None:
    """End the processes that a test has left."""
    try:
        os.killpg(leader, 9)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
