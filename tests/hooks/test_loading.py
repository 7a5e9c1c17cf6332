"""An application's class is found by module or file, and everything that is wrong with it is one clear line."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import ProxyError
from proxy.hooks import HookRunner, Hooks, load_hooks

GOOD = """
from proxy.hooks import Hooks

class Mine(Hooks):
    async def flow_start(self, flow):
        return "no"
"""


class Answering(Hooks):
    async def flow_start(self, flow):
        return "no"


def written(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


def refused(name):
    with pytest.raises(ProxyError) as caught:
        load_hooks(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"hooks '{name}': ")
    return str(caught.value).removeprefix(f"hooks '{name}': ")


def test_none_means_the_defaults():
    assert type(load_hooks(None)) is Hooks


def test_class_is_loaded_by_name():
    assert isinstance(load_hooks("tests.hooks.test_loading:Answering"), Answering)


def test_class_is_loaded_from_a_file(tmp_path):
    hooks = load_hooks(f"{written(tmp_path, GOOD)}:Mine")
    assert asyncio.run(HookRunner(hooks).ask("flow_start", "the flow")).reason == "no"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("no.such.module:Thing", "No module named 'no'"),
        ("tests.hooks.test_loading:Answring", "no class 'Answring' there; did you mean 'Answering'?"),
        ("tests.hooks.test_loading:pytest", "pytest is not a subclass of proxy.hooks.Hooks"),
        ("tests.hooks.test_loading:HookRunner", "HookRunner is not a subclass of proxy.hooks.Hooks"),
    ],
)
def test_wrong_name_is_one_clear_error(name, complaint):
    assert refused(name) == complaint


def test_missing_file_is_named_with_the_one_that_is_like_it(tmp_path):
    written(tmp_path, GOOD, "hooks.py")
    expected = f"no file {tmp_path}/hoks.py; did you mean '{tmp_path}/hooks.py'?"
    assert refused(f"{tmp_path}/hoks.py:Mine") == expected
    assert refused(f"{tmp_path}/nowhere/x.py:Mine") == f"no file {tmp_path}/nowhere/x.py"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("import nothing_of_this_name", "mine.py:1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("x = 1\nx = 1 / 0", "mine.py:2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "mine.py:1: invalid syntax"),
        (GOOD.replace("Mine", "Other"), "no class 'Mine' there"),
        (GOOD + "    def __init__(self):\n        self.x = self.y\n", "AttributeError: 'Mine' object has no"),
        (GOOD.replace("flow_start", "flow_strat"), "flow_strat is not a hook; did you mean 'flow_start'?"),
        (GOOD.replace("async def", "def"), "flow_start must be 'async def'"),
        (GOOD.replace("flow)", "flow, more)"), "cannot be called as flow_start(self, flow): missing a required"),
        (GOOD.replace("(self, flow)", "(self)"), "cannot be called as flow_start(self, flow): too many positional"),
        (GOOD + "    timeout_s = 'soon'\n", "timeout_s must be a number of seconds (found 'soon')"),
        (GOOD + "    timeout_s = 0\n", "timeout_s must be a number of seconds (found 0)"),
        (GOOD + "    fail_open = 'yes'\n", "fail_open must be True or False (found 'yes')"),
        (
            GOOD.replace("import Hooks", "import Hooks, hook").replace("  async", "  @hook(timeout_s=-1)\n    async"),
            "@hook of flow_start: timeout_s must be a number of seconds (found -1)",
        ),
        (
            GOOD.replace("import Hooks", "import Hooks, hook").replace(
                "    async def flow_start", "    @hook(timeout_s=1)\n    async def flow_begin"
            ),
            "@hook on flow_begin, which is not a hook",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_clear_error(tmp_path, text, complaint):
    assert complaint in refused(f"{written(tmp_path, text)}:Mine")


def test_an_application_has_methods_of_its_own(tmp_path):
    more = "    async def lookup(self, user):\n        pass\n    async def _flow_strat(self):\n        pass\n"
    assert HookRunner(load_hooks(f"{written(tmp_path, GOOD + more)}:Mine")).has("flow_start")


def test_file_is_found_beside_the_configuration(tmp_path):
    from proxy.settings import load

    written(tmp_path, GOOD)
    config = "tenants: {acme: {}}\nonramps: [{kind: connected, path: x}]\nhooks: ./mine.py:Mine\n"
    path = written(tmp_path, config, "proxy.yaml")
    assert type(load_hooks(load(path).hooks)).__name__ == "Mine"
