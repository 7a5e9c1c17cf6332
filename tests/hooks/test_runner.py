"""Hooks: what is not overridden costs nothing, and what fails or dawdles denies, or allows when it was said so."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from proxy.hooks import HookRunner, Hooks, blocking, hook, load_hooks
from proxy.verdict import ALLOW, Failure, HttpEffects, Verdict, deny


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


class Exiting(Hooks):
    async def flow_start(self, flow):
        raise SystemExit(3)


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


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (None, ALLOW),
        ("because", deny("because")),
        ("", deny("")),
        (Verdict(offramp="kernel", ttl_s=5), Verdict(offramp="kernel", ttl_s=5)),
        (deny("no", refusal="reset"), Verdict(action="deny", reason="no", refusal="reset")),
    ],
)
def test_answer_is_a_verdict(answer, verdict):
    hooks = Answering(answer)
    assert asyncio.run(HookRunner(hooks).ask("flow_start", "the flow")) == verdict
    assert hooks.seen == ["the flow"]


@pytest.mark.parametrize("hooks", [Failing(), Exiting(), Dawdling(), Answering(42), Answering(Verdict(ttl_s=-1))])
@pytest.mark.parametrize("shown", [SimpleNamespace(flow_id="f1"), SimpleNamespace(flow=SimpleNamespace(flow_id="f1"))])
def test_the_log_names_the_flow_that_a_hook_failed_on(hooks, shown, caplog):
    asyncio.run(HookRunner(hooks).ask("flow_start", shown))
    assert "(flow f1)" in caplog.text


def test_nobody_to_ask_means_allowed_at_once_without_a_loop():
    answers = []
    HookRunner(Hooks()).ask_then("flow_start", "the flow", answers.append)
    assert answers == [ALLOW]


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

    assert asyncio.run(main()) == [deny("because")]


def asked(hooks, name="flow_start"):
    return asyncio.run(HookRunner(hooks).ask(name, "the flow"))


@pytest.mark.parametrize(
    ("hooks", "told", "logged"),
    [
        (Failing, "hook flow_start failed", "ValueError: a bug"),
        (Dawdling, "hook flow_start took longer than 0.01 s", "took longer than 0.01 s"),
        (lambda: Answering(42), "hook flow_start returned int", "returned 42 (int): expected a text, a Verdict"),
        (lambda: Answering(True), "hook flow_start returned bool", "expected a text, a Verdict or None"),
        (lambda: Answering(Verdict(level="high")), "Invalid enum value 'high'", "'high'"),
        (lambda: Answering(Verdict(origin=("wiki", 80))), "'wiki' does not appear to be an IPv4", "wiki"),
        (lambda: Answering(Verdict(origin=("::1", 0))), "no port has the number 0", "number 0"),
        (lambda: Answering(Verdict(ttl_s=0)), "ttl_s must be more than 0", "ttl_s"),
    ],
    ids=["raises", "dawdles", "number", "truth", "level", "origin", "port", "ttl"],
)
@pytest.mark.parametrize("fail_open", [False, True])
def test_failure_denies_unless_it_is_to_allow(hooks, told, logged, fail_open, caplog):
    application = hooks()
    application.fail_open = fail_open
    verdict = asked(application)
    assert isinstance(verdict, Failure) is verdict.is_denial is not fail_open
    assert told in verdict.reason
    assert verdict.reason.endswith("and it fails open") is fail_open
    assert "hook flow_start" in caplog.text
    assert logged in caplog.text


def test_a_hook_that_wants_bodies_read_needs_one_that_reads_them(caplog):
    wish = Verdict(http=HttpEffects(reads=("request",)))
    assert asyncio.run(HookRunner(Answering(wish)).ask_for_inspector("flow_start", None)).is_denial
    assert "there is no hook http_body" in caplog.text


def test_a_hook_may_have_a_time_and_a_fail_policy_of_its_own():
    class Application(Hooks):
        timeout_s = 60.0

        @hook(timeout_s=0.01)
        async def flow_start(self, flow):
            await asyncio.Event().wait()

        @hook(fail_open=True, timeout_s=0.01)
        async def tunnel_open(self, context):
            await asyncio.Event().wait()

        async def level(self, flow):
            raise ValueError("a bug")

    assert asked(Application()).reason == "hook flow_start took longer than 0.01 s"
    assert not asked(Application(), "tunnel_open").is_denial
    assert asked(Application(), "level").is_denial


@pytest.mark.parametrize(
    ("name", "answer", "verdict"),
    [
        ("level", "stream", Verdict(level="stream")),
        ("level", deny("no"), deny("no")),
        ("route", "site:berlin", Verdict(offramp="site:berlin")),
        ("tunnel_open", "no", deny("no")),
    ],
)
def test_text_means_what_its_hook_says(name, answer, verdict):
    async def answering(self, flow):
        return answer

    assert asked(type("Application", (Hooks,), {name: answering})(), name) == verdict


def test_a_hook_that_blocks_the_loop_is_named(caplog, monkeypatch):
    monkeypatch.setattr(blocking, "MAX_STEP_S", 0.0)

    class Blocking(Hooks):
        async def flow_start(self, flow):
            await asyncio.sleep(0)

    asked(Blocking())
    assert "hook flow_start blocked the proxy for 0.00 s" in caplog.text


def test_a_hook_that_never_returns_is_named_with_its_place(caplog, monkeypatch):
    monkeypatch.setattr(blocking, "CHECK_INTERVAL_S", 0.01)

    class Looping(Hooks):
        async def flow_start(self, flow):
            while not caplog.records:
                pass

    runner = HookRunner(Looping())
    runner.start()
    try:
        asyncio.run(runner.ask("flow_start", "the flow"))
    finally:
        runner.stop()
    assert "hook flow_start is blocking the proxy" in caplog.text
    assert "in flow_start" in caplog.text


def test_no_thread_watches_where_there_is_no_hook():
    runner = HookRunner(Hooks())
    runner.start()
    runner.stop()
    assert runner.watchdog._thread is None


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


@pytest.mark.parametrize(
    ("user", "port", "choice"),
    [("guest-7", 443, "stream"), ("guest-7", 873, "packet"), ("ada", 443, None), (None, 443, None)],
)
def test_example_lifts_guests_to_streams(user, port, choice):
    hooks = load_hooks("examples.levels:StreamsOfGuests")
    assert asyncio.run(hooks.level(SimpleNamespace(user=user, dst_port=port))) == choice
