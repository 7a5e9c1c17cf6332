"""Hooks: what is not overridden costs nothing, and what fails or dawdles denies, or allows when it was said so."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from proxy.errors import ProxyError
from proxy.hooks import HookRunner, Hooks, load_hooks


class Answering(Hooks):
    def __init__(self, answer=None):
        self.answer, self.seen = answer, []

    async def flow_start(self, flow):
        self.seen.append(flow)
        return self.answer

    async def connected(self, flow):
        self.seen.append(flow)


class Failing(Hooks):
    async def flow_start(self, flow):
        raise ValueError("a bug")

    async def flow_end(self, flow):
        raise ValueError("a bug")


class Dawdling(Hooks):
    timeout_s = 0.01

    async def flow_start(self, flow):
        await asyncio.Event().wait()

    async def flow_end(self, flow):
        await asyncio.Event().wait()


def test_only_what_is_overridden_is_there():
    runner = HookRunner(Answering())
    assert runner.has("flow_start")
    assert runner.has("connected")
    assert not runner.has("flow_end")
    assert not HookRunner(Hooks()).has("flow_start")


@pytest.mark.parametrize("answer", [None, "because"])
def test_answer_is_passed_on(answer):
    hooks = Answering(answer)
    assert asyncio.run(HookRunner(hooks).ask("flow_start", "the flow")) == answer
    assert hooks.seen == ["the flow"]


def test_nobody_to_ask_means_allowed_at_once_without_a_loop():
    answers = []
    HookRunner(Hooks()).ask_then("flow_start", "the flow", answers.append)
    assert answers == [None]


def test_who_drives_the_loop_hears_that_a_hook_waits_for_its_turn():
    async def main():
        heard = []
        runner = HookRunner(Answering(), scheduled=lambda: heard.append("scheduled"))
        runner.ask_then("flow_start", "the flow", lambda answer: None)
        assert heard == ["scheduled"]
        await runner.drain()

    asyncio.run(main())


def test_answer_comes_later_when_somebody_is_asked():
    async def main():
        runner, answers = HookRunner(Answering("because")), []
        runner.ask_then("flow_start", "the flow", answers.append)
        assert answers == []
        await runner.drain()
        return answers

    assert asyncio.run(main()) == ["because"]


@pytest.mark.parametrize("kind", [Failing, Dawdling])
@pytest.mark.parametrize(("fail_open", "expected"), [(False, "hook flow_start failed"), (True, None)])
def test_failure_denies_unless_it_is_to_allow(kind, fail_open, expected, caplog):
    hooks = kind()
    hooks.fail_open = fail_open
    assert asyncio.run(HookRunner(hooks).ask("flow_start", "the flow")) == expected
    assert "hook flow_start" in caplog.text


@pytest.mark.parametrize("kind", [Failing, Dawdling])
def test_failure_of_a_notice_goes_to_the_log_only(kind, caplog):
    async def main():
        runner = HookRunner(kind())
        await runner.notify("flow_end", "the flow")
        runner.notify_soon("flow_end", "the flow")
        await runner.drain()

    asyncio.run(main())
    assert caplog.text.count("hook flow_end") == 2


def test_drain_waits_for_notices_and_for_what_they_start():
    class Chained(Hooks):
        seen: tuple[str, ...] = ()

        async def connected(self, flow):
            await asyncio.sleep(0)
            self.seen += ("connected",)
            runner.notify_soon("flow_end", flow)

        async def flow_end(self, flow):
            await asyncio.sleep(0)
            self.seen += ("flow_end",)

    runner = HookRunner(Chained())

    async def main():
        runner.notify_soon("connected", "the flow")
        await runner.drain()

    asyncio.run(main())
    assert runner.hooks.seen == ("connected", "flow_end")


def test_what_follows_an_answer_may_fail_without_silence(caplog):
    """The flow that was asked about would hang: its failure is at least in the log."""

    async def main():
        runner = HookRunner(Answering())
        runner.ask_then("flow_start", "the flow", lambda denial: 1 / 0)
        await runner.drain()

    asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_none_means_the_defaults():
    assert type(load_hooks(None)) is Hooks


def test_class_is_loaded_by_name():
    assert isinstance(load_hooks("tests.test_hooks:Answering"), Answering)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("no.such.module:Thing", "No module named"),
        ("tests.test_hooks:Nothing", "Nothing"),
        ("tests.test_hooks:HookRunner", "not a subclass"),
        ("tests.test_hooks:pytest", "not a subclass"),
    ],
)
def test_wrong_name_is_one_clear_error(name, complaint):
    with pytest.raises(ProxyError, match=complaint) as caught:
        load_hooks(name)
    assert name in str(caught.value)


def test_every_hook_has_a_default_that_allows():
    async def main():
        hooks = Hooks()
        return [
            await hooks.startup(),
            await hooks.tunnel_open(None),
            await hooks.flow_start(None),
            await hooks.shutdown(),
        ]

    assert asyncio.run(main()) == [None] * 4


class Choosing(Hooks):
    def __init__(self, answer):
        self.answer = answer

    async def level(self, flow):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def chosen(hooks):
    async def main():
        runner, answers = HookRunner(hooks), []
        runner.choose_then("level", "the flow", ("packet", "stream"), lambda *answer: answers.append(answer))
        await runner.drain()
        return answers

    return asyncio.run(main())


@pytest.mark.parametrize("choice", ["packet", "stream", None])
def test_choice_is_passed_on(choice):
    assert chosen(Choosing(choice)) == [(choice, None)]


def test_choice_that_nobody_makes_is_none():
    assert chosen(Hooks()) == [(None, None)]


@pytest.mark.parametrize("answer", ["tls", ValueError("a bug")])
@pytest.mark.parametrize(("fail_open", "denial"), [(False, "hook level failed"), (True, None)])
def test_choice_of_what_is_not_offered_is_a_failure(answer, fail_open, denial):
    hooks = Choosing(answer)
    hooks.fail_open = fail_open
    assert chosen(hooks) == [(None, denial)]


@pytest.mark.parametrize(
    ("user", "port", "choice"),
    [("guest-7", 443, "stream"), ("guest-7", 873, "packet"), ("ada", 443, None), (None, 443, None)],
)
def test_example_lifts_guests_to_streams(user, port, choice):
    hooks = load_hooks("examples.levels:StreamsOfGuests")
    assert asyncio.run(hooks.level(SimpleNamespace(user=user, dst_port=port))) == choice
