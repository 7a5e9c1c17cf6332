"""The architecture, held by the imports: which package may know which, and why not."""

from __future__ import annotations

import ast

import pytest

from tests.meta.imports import (
    ROOT,
    Import,
    circles,
    forbidden,
    imports_in,
    imports_of,
    module_name,
    outside,
    rank,
    sources,
    upward,
)

# From the bottom up: a module imports what stands below it or beside it, never what stands above.
LAYERS = (
    "proxy.errors",
    "proxy.context",
    "proxy.verdict",
    "proxy.settings",
    "proxy.policy.language",  # conditions over facts; flow records are filtered by it as well
    "proxy.ca",  # keys of tenants' authorities: the proxy's alone
    "proxy.wire",
    "proxy.flow",
    "proxy.hooks",  # names flow records in its signatures
    "proxy.policy",  # rules about flows and what is in them: the proxy and its inspectors judge by them
    "proxy.poller",
    "proxy.session",  # messages and channel: what the proxy and its inspectors have in common
    "proxy.inspect",  # runs in processes of its own: knows no packets, kernel or on-ramps
    "proxy.packet",
    "proxy.device",
    "proxy.kernel",
    "proxy.offramps",  # sockets towards origins: what the stream plane dials by
    "proxy.stream",
    "proxy.onramps",
    "proxy.control.ssh_schema",
    "proxy.control.schema",  # the shape of answers: the store of records fills it in, the server sends it
    "proxy.telemetry",
    "proxy.control",
    "proxy.testing",  # the proxy in memory, for tests of applications
    "proxy.app",
    "proxy.__main__",
)

# The lab's rooms, in the same order. What `render` says of values stands lower than what it prints of whole rooms.
ROOMS = (
    "oxyctl.errors",
    "oxyctl.net",
    "oxyctl.traffic",
    "oxyctl.services",
    "oxyctl.agents",
    "oxyctl.render.units",
    "oxyctl.render.tables",
    "oxyctl.render.envelope",
    "oxyctl.render.flows",  # checks of a lab file name fields of flow records
    "oxyctl.topology",
    "oxyctl.plan",
    "oxyctl.build",
    "oxyctl.supervise",
    "oxyctl.doctor",
    "oxyctl.operate",
    "oxyctl.capture",
    "oxyctl.checks",
    "oxyctl.policies",
    "oxyctl.trust",
    "oxyctl.render",
    "oxyctl.testing",
    "oxyctl.cli",
    "oxyctl.__main__",
)

LEAVES = ("proxy.errors", "proxy.context", "proxy.verdict", "proxy.settings")

CLOCK = "time is an argument, so that every state can be reached in a test"
KERNEL = "packets come and go as arguments; only devices and ramps talk to the kernel"
NOT_IN_PURE_LAYERS = {
    "asyncio": "no state may depend on a loop",
    "selectors": KERNEL,
    "select": KERNEL,
    "socket": KERNEL,
    "subprocess": KERNEL,
    "os": "no files, no environment, no os.urandom",
    "threading": "one thread owns all flows",
    "concurrent": "one thread owns all flows",
    "time": CLOCK,
    "random": "what cannot be repeated cannot be tested; identifiers come as arguments",
    "secrets": "what cannot be repeated cannot be tested; identifiers come as arguments",
    "logging": "what happens is counted or returned, and told by whoever called",
}
PURE = ("proxy.wire", "proxy.flow", "proxy.packet")

NOT_IN_A_PLAN = {
    "asyncio": "a lab file and its plan are read and compared, not run",
    "subprocess": "nothing is started before the whole plan is known",
    "socket": "nothing is asked of the kernel",
    "threading": "a lab file and its plan are read and compared, not run",
    "time": CLOCK,
    "random": "the same lab file gives the same plan",
    "secrets": "the same lab file gives the same plan",
}

CORE_FOR_THE_LAB = {
    "proxy.control": "the way to ask a running proxy",
    "proxy.policy": "a policy file means the same before a proxy takes it and after",
    "proxy.packet.health": "a tunnel's health is judged alike at both of its ends",
    "proxy.kernel.obstacles": "what is in the kernel off-ramp's way is the same before it starts and after",
    "proxy.wire": "bytes mean the same on both sides",
    "proxy.device": "TUN devices, and the client's side of tunnels",
    "proxy.settings": "both read YAML, and the lab writes proxy.yaml",
    "proxy.context": "what clients say of themselves",
    "proxy.errors": "what can go wrong there",
}

ON_THEIR_OWN = {
    "oxyctl.topology": "labs start them, they know nothing of labs",
    "oxyctl.plan": "labs start them, they know nothing of labs",
    "oxyctl.build": "labs start them, they know nothing of labs",
    "oxyctl.supervise": "labs start them, they know nothing of labs",
    "oxyctl.operate": "labs start them, they know nothing of labs",
    "oxyctl.cli": "they are programs, not commands",
    "oxyctl.render": "they are programs, not commands",
}


def test_the_proxy_does_not_know_the_lab():
    assert forbidden(imports_in("proxy"), "proxy", {"oxyctl": "the core is usable by itself"}) == []


def test_the_lab_knows_only_the_open_parts_of_the_proxy():
    assert outside(imports_in("oxyctl"), "oxyctl", "proxy", CORE_FOR_THE_LAB) == []


@pytest.mark.parametrize("package", PURE)
def test_pure_layers_do_no_io_and_read_no_clock(package):
    assert forbidden(imports_in("proxy"), package, NOT_IN_PURE_LAYERS) == []
    assert [each for path in sources("proxy") for each in clock_readings(path.read_text(), module_name(path))] == []


def test_layers_import_one_way():
    assert upward(imports_in("proxy", with_types=True), LAYERS) == []


def test_rooms_of_the_lab_import_one_way():
    assert upward(imports_in("oxyctl", with_types=True), ROOMS) == []


def test_every_module_of_the_lab_has_its_room():
    homeless = [module_name(path) for path in sources("oxyctl") if rank(module_name(path), ROOMS) is None]
    assert homeless == ["oxyctl", "oxyctl.lab"]  # the version; what is told of modules that have moved


def test_nothing_is_imported_in_a_circle():
    """Also not for type checkers alone: who reads one file of a circle has to read them all."""
    assert circles(imports_in("proxy", "oxyctl", with_types=True)) == []


@pytest.mark.parametrize("room", ["oxyctl.topology", "oxyctl.plan"])
def test_a_lab_file_and_its_plan_are_pure(room):
    assert forbidden(imports_in("oxyctl"), room, NOT_IN_A_PLAN) == []


def test_leaves_import_nothing_but_leaves():
    found = [each for each in imports_in("proxy") if rank(each.importer, LEAVES) is not None]
    assert outside(found, "proxy", "proxy", dict.fromkeys(LEAVES, "")) == []


def test_every_module_of_the_proxy_has_its_layer():
    homeless = [module_name(path) for path in sources("proxy") if rank(module_name(path), LAYERS) is None]
    assert homeless == ["proxy"]  # the glossary


@pytest.mark.parametrize("package", ["oxyctl.agents", "oxyctl.services", "oxyctl.traffic"])
def test_programs_of_the_lab_stand_on_their_own(package):
    assert forbidden(imports_in("oxyctl"), package, ON_THEIR_OWN) == []


def test_the_layers_are_those_that_exist():
    for layer in (*LAYERS, *ROOMS):
        path = ROOT.joinpath(*layer.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), layer


def clock_readings(source, module):
    """Calls such as datetime.now() in a pure layer: the module may be imported, its clock may not be read."""
    if rank(module, PURE) is None:
        return []
    names = {"now", "utcnow", "today", "monotonic", "perf_counter"}
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        f"{module}:{call.lineno}: {ast.unparse(call.func)}() reads a clock: {CLOCK}"
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr in names
    ]


# The checks catch what they are there for.


@pytest.mark.parametrize(
    "snippet",
    [
        "import oxyctl",
        "import oxyctl.topology.file as model",
        "from oxyctl import lab",
        "def late():\n    from oxyctl.lab import plan",
        "if True:\n    import os, oxyctl",
        "import importlib\nimportlib.import_module('oxyctl.lab')",
        "try:\n    pass\nexcept ImportError:\n    import oxyctl",
    ],
)
def test_a_forbidden_import_is_caught_however_it_is_written(snippet):
    caught = forbidden(imports_of(snippet, "proxy.app"), "proxy", {"oxyctl": "because"})
    assert len(caught) == 1
    assert caught[0].endswith(": because")


@pytest.mark.parametrize(
    "snippet",
    [
        "import oxyctlish",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import oxyctl",
        "'import oxyctl'",
    ],
)
def test_what_is_not_that_import_is_let_through(snippet):
    assert forbidden(imports_of(snippet, "proxy.app"), "proxy", {"oxyctl": "because"}) == []


@pytest.mark.parametrize(
    "snippet", ["from proxy.app import Proxy", "from .. import app", "from ..app import Proxy", "from proxy import app"]
)
def test_an_import_upward_is_caught(snippet):
    caught = upward(imports_of(snippet, "proxy.wire.ip"), LAYERS)
    assert len(caught) == 1
    assert "proxy.wire.ip imports proxy.app, which stands above it" in caught[0]
    assert upward(imports_of("from proxy.wire import ip", "proxy.app"), LAYERS) == []


def test_the_longest_name_decides_the_layer():
    assert upward(imports_of("import proxy.control.schema", "proxy.telemetry.view"), LAYERS) == []
    assert len(upward(imports_of("import proxy.control.server", "proxy.telemetry.view"), LAYERS)) == 1


def test_a_relative_import_in_a_package_is_resolved():
    found = imports_of("from . import ip\nfrom .tcp import x", "proxy.wire", is_package=True)
    assert [each.imported for each in found] == ["proxy.wire.ip", "proxy.wire.tcp"]


@pytest.mark.parametrize(
    "snippet", ["import time", "from os import urandom", "import asyncio.tasks", "import socket as s"]
)
def test_io_in_a_pure_layer_is_caught(snippet):
    assert len(forbidden(imports_of(snippet, "proxy.flow.table"), "proxy.flow", NOT_IN_PURE_LAYERS)) == 1


def test_a_clock_in_a_pure_layer_is_caught():
    assert len(clock_readings("import datetime\nx = datetime.datetime.now()", "proxy.flow.x")) == 1
    assert clock_readings("import datetime\nx = datetime.datetime.now()", "proxy.stream.x") == []


def test_a_closed_part_of_the_proxy_is_caught():
    found = imports_of(
        "from proxy.stream import relay\nfrom proxy.wire import ip\nimport proxy.wirex", "oxyctl.plan.draft"
    )
    assert len(outside(found, "oxyctl", "proxy", CORE_FOR_THE_LAB)) == 2


def graph(*arrows):
    return [Import(*arrow.split(" -> "), "file.py", 1) for arrow in arrows]


def test_a_circle_is_caught_however_long_it_is():
    assert circles(graph("a -> b", "b -> c", "c -> d")) == []
    assert circles(graph("a -> b", "b -> a")) == [["a", "b"]]
    assert circles(graph("a -> b", "b -> c", "c -> d", "d -> b")) == [["b", "c", "d"]]
    assert sorted(circles(graph("a -> b", "b -> a", "b -> c", "c -> d", "d -> c"))) == [["a", "b"], ["c", "d"]]


def test_an_import_for_type_checkers_counts_in_a_circle():
    snippet = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a"
    assert [each.imported for each in imports_of(snippet, "b", with_types=True)] == ["typing", "a"]
    assert [each.imported for each in imports_of(snippet, "b")] == ["typing"]
