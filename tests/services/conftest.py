"""One services process for all tests of a worker, and a leak check around each test that uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.services.origin import FAMILIES, Origin, needs, node, run, wait_until

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(scope="session")
def shared_origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    directory = tmp_path_factory.mktemp("origin")
    root = directory / "root"
    root.mkdir()
    (root / "file.bin").write_bytes(CONTENT)
    (root / "empty.txt").touch()
    (directory / "secret.txt").write_text("outside")
    (root / "way-out").symlink_to(directory / "secret.txt")
    (root / "docs").mkdir()
    (root / "docs" / "index.html").write_text("<p>index</p>")
    origin = Origin(directory, node(root=str(root)))
    try:
        yield origin
    finally:
        code = origin.stop()
    assert code == 0
    log = origin.log.read_text()
    for complaint in ("Traceback", "Warning", "never retrieved"):
        assert complaint not in log, log


@pytest.fixture
def origin(shared_origin: Origin) -> Iterator[Origin]:
    """The shared process, which afterwards holds no descriptor and no program more than before."""
    descriptors, programs = shared_origin.descriptors(), len(shared_origin.programs())
    yield shared_origin
    wait_until(lambda: shared_origin.descriptors() <= descriptors, f"it holds no more than {descriptors} descriptors")
    wait_until(lambda: len(shared_origin.programs()) <= programs, f"it runs no more than {programs} programs")


@pytest.fixture(params=FAMILIES)
def address(request: pytest.FixtureRequest) -> str:
    return FAMILIES[request.param]


@pytest.fixture
def curl(origin: Origin) -> Callable[..., str]:
    """curl with the lab's authority: what it printed, after it has succeeded."""
    needs("curl")

    def call(*arguments: object) -> str:
        done = run("curl", "-sS", "-g", "--max-time", 30, "--cacert", origin.state / "ca.pem", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture
def ssh(origin: Origin) -> list[str]:
    """The options of OpenSSH's programs that name the server and trust its key, and only it."""
    needs("ssh", "scp", "sftp")
    return [
        *("-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"),
        *("-o", f"UserKnownHostsFile={Path(origin.state / 'known_hosts')}", "-o", f"Port={origin.port['ssh']}"),
    ]
