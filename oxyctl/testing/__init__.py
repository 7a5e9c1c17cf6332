"""The pytest plugin: labs as fixtures. pytest loads this module in every run, so it imports as little as possible.

    labs      the labs of one pytest process: started, shared, taken down
    handles   a lab, as tests use it
    node      a node of a lab
    guard     takes labs down when pytest itself was killed

A test requests the fixture `lab`, which its marker describes, or `lab_factory`, which makes any number of labs:

    @pytest.mark.lab("labs/quickstart.yaml")
    def test_web(lab):
        assert lab["laptop"].http("http://web/").status == 200
        assert lab.flows("acme", dst_port=80, until=1)[0].close_reason == "client_closed"
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from oxyctl.testing.handles import LabHandle
    from oxyctl.testing.labs import Labs

_MARKER = (
    'lab(source, scope="function", timeout=60): the lab of the fixture `lab`: the path of a lab file, below the '
    'directory of the test or the root; its text; or the name of a bundled lab. scope "module" or "session" '
    "shares it"
)
SCOPES = ("function", "module", "session")
_labs: pytest.StashKey[Labs] = pytest.StashKey()
_used: pytest.StashKey[list[LabHandle]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options in `pytest --help`."""
    group = parser.getgroup("oxyctl", "labs (oxyctl)")
    group.addoption("--lab-keep", action="store_true", help="leave the labs of failed tests up, to look at them")
    group.addoption(
        "--lab-capture",
        metavar="DIR",
        default=None,
        help="capture every packet of each lab; what a failed test saw is kept in DIR as pcapng",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def lab_factory(request: pytest.FixtureRequest) -> Callable[..., LabHandle]:
    """Bring up labs that end with the test: `lab_factory(path_or_text)` returns when every node is ready."""

    def make(source: str | Path, *, timeout: float = 60) -> LabHandle:
        return _bring_up(request, source, "function", timeout)

    return make


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> LabHandle:
    """The lab that the test's `lab` marker describes, with every node ready."""
    marker = request.node.get_closest_marker("lab")
    if marker is None or len(marker.args) != 1:
        pytest.fail('the fixture `lab` needs a marker: @pytest.mark.lab("labs/x.yaml")', pytrace=False)
    scope, timeout = marker.kwargs.get("scope", "function"), marker.kwargs.get("timeout", 60)
    unknown = marker.kwargs.keys() - {"scope", "timeout"}
    if unknown or scope not in SCOPES:
        pytest.fail(f"@pytest.mark.lab takes scope={'|'.join(SCOPES)} and timeout=SECONDS", pytrace=False)
    return _bring_up(request, marker.args[0], scope, timeout)


def _bring_up(request: pytest.FixtureRequest, source: str | Path, scope: str, timeout_s: float) -> LabHandle:
    from oxyctl.errors import OxyctlError
    from oxyctl.testing.labs import Labs, source_of
    from proxy.settings import DocumentError

    item: pytest.Item = request.node
    if _labs not in item.config.stash:
        item.config.stash[_labs] = Labs(item.config.getoption("lab_capture"))
    owner = {"function": item.nodeid, "module": str(item.path), "session": ""}[scope]
    try:
        path, text = source_of(source, [item.path.parent, item.config.rootpath])
        handle = item.config.stash[_labs].get(path, text, owner, timeout_s)
    except (OxyctlError, DocumentError) as error:
        problem = str(error)
    else:
        item.stash.setdefault(_used, []).append(handle)
        return handle
    pytest.fail(problem, pytrace=False)  # outside `except`, so that the report omits the original error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add sections from the labs of a failed test to its report."""
    report = yield
    if report.failed and (used := item.stash.get(_used, [])):
        for handle in used:
            handle.has_failed = True
            report.sections += handle.sections()
            if item.config.getoption("lab_keep"):
                report.sections.append((f"{handle.name}: left up", f"`oxyctl lab down {handle.name}` ends it"))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Take labs down after the last test that uses them, after the fixtures that depend on them."""
    try:
        return (yield)
    finally:
        if (labs := item.config.stash.get(_labs, None)) is not None:
            ended = (
                [item.nodeid] if nextitem is not None and nextitem.path == item.path else [item.nodeid, str(item.path)]
            )
            labs.end(ended, keep_failed=item.config.getoption("lab_keep"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take all labs down, except those that were to be left up."""
    if (labs := session.config.stash.get(_labs, None)) is not None:
        labs.close(keep_failed=session.config.getoption("lab_keep"))
