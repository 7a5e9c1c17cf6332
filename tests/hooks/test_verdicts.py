"""What a verdict says is done to every kind of flow: how a denial is told, where the flow goes, how long it holds."""

from __future__ import annotations

import pytest

from proxy.flow.record import Decision
from proxy.hooks import Hooks, Verdict, deny
from proxy.testing import Rehearsal
from proxy.verdict import ALLOW, Ruling

BEGIN = {
    "tcp": lambda client: client.tcp("203.0.113.5", 443),
    "udp": lambda client: client.udp("203.0.113.5", 53),
    "icmp": lambda client: client.ping("203.0.113.5"),
    "tcp6": lambda client: client.tcp("2001:db8::5", 443),
    "udp6": lambda client: client.udp("2001:db8::5", 53),
}


class Answering(Hooks):
    def __init__(self, stage="flow_start", answer=None):
        self.answers, self.asked = {stage: answer}, []

    def _answer(self, stage, flow):
        self.asked.append(stage)
        answer = self.answers.get(stage)
        if isinstance(answer, Exception):
            raise answer
        return answer.pop(0) if isinstance(answer, list) else answer

    async def flow_start(self, flow):
        return self._answer("flow_start", flow)

    async def route(self, flow):
        return self._answer("route", flow)

    async def level(self, flow):
        return self._answer("level", flow)

    async def connect(self, flow):
        return self._answer("connect", flow)

    async def flow_end(self, flow):
        self.asked.append("flow_end")


class Policy:
    def __init__(self, verdict):
        self.verdict, self.asked = verdict, 0

    def judge(self, flow):
        self.asked += 1
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return Ruling(self.verdict, [Decision("network", "acme", self.verdict.action, rule="r1", version="v1")])


def told(kind, refusal):
    """What a client hears."""
    if refusal == "drop":
        return []
    if refusal == "reset" and kind.startswith("tcp"):
        return ["TCP RA"]
    if refusal == "reset" and kind.startswith("udp"):
        return ["ICMPv6 1/4" if kind.endswith("6") else "ICMP 3/3"]
    return ["ICMPv6 1/1" if kind.endswith("6") else "ICMP 3/13"]


@pytest.mark.parametrize("kind", BEGIN)
@pytest.mark.parametrize("refusal", [None, "reset", "unreachable", "drop"])
@pytest.mark.parametrize("who", ["hook", "policy", "late hook"])
def test_denial_is_told_as_the_verdict_says(kind, refusal, who):
    verdict = deny("not today", refusal=refusal)
    hooks = Answering("connect" if who == "late hook" else "flow_start", verdict) if "hook" in who else None
    with Rehearsal(hooks, judge=Policy(verdict) if who == "policy" else None) as rehearsal:
        flow = BEGIN[kind](rehearsal.tunnel())
        assert (flow.verdict, flow.record.close_reason, flow.answers) == ("denied", "denied", told(kind, refusal))
        assert (flow.decisions[-1].action, flow.sent_on) == ("deny", [])
        assert [record.event for record in rehearsal.records] == ["start", "end"]


def test_repeated_syn_of_a_denied_flow_is_answered_again_and_nobody_is_asked_again():
    with Rehearsal(hooks := Answering(answer=deny("no", refusal="reset"))) as rehearsal:
        client = rehearsal.tunnel()
        flow = client.tcp("203.0.113.5", 443, source_port=4000)
        again = client.tcp("203.0.113.5", 443, source_port=4000)
        assert (again.flow, again.answers) == (None, ["TCP RA"])
        assert hooks.asked == ["flow_start", "flow_end"]
        rehearsal.advance(5)
        assert flow.flow.handler is None


@pytest.mark.parametrize("kind", BEGIN)
def test_everybody_is_asked_in_order_and_the_flow_goes_on(kind):
    with Rehearsal(hooks := Answering(), judge=Policy(ALLOW)) as rehearsal:
        flow = BEGIN[kind](rehearsal.tunnel())
        level = [] if kind == "icmp" else ["level"]
        assert hooks.asked == ["flow_start", "route", *level, "connect"]
        assert (flow.verdict, len(flow.sent_on)) == ("allowed", 1)
        assert flow.record.offramp == "tunnel"
        assert [each.policy for each in flow.decisions] == ["acme"]


@pytest.mark.parametrize("answer", ["site:berlin", Verdict(offramp="site:berlin")])
@pytest.mark.parametrize("kind", BEGIN)
def test_route_names_the_off_ramp(kind, answer):
    with Rehearsal(Answering("route", answer), sites={"berlin": ["10.0.0.0/8"]}) as rehearsal:
        flow = BEGIN[kind](rehearsal.tunnel())
        assert (flow.record.offramp_tunnel, flow.record.route) == ("berlin", "verdict via site:berlin")
        assert len(flow.sent_on) == 1
        assert flow.decisions[-1].action == "route site:berlin"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("site:berlni", "no site 'berlni' has an open tunnel; those that have: berlin, internet"),
        ("socket", "no off-ramp 'socket'; expected one of: sockets, kernel, clients, site:NAME"),
        ("kernel", "there is no kernel off-ramp for this flow"),
    ],
)
@pytest.mark.parametrize("fail_open", [False, True])
def test_an_off_ramp_that_is_not_there_follows_the_fail_policy(name, problem, fail_open, caplog):
    hooks = Answering("route", name)
    hooks.fail_open = fail_open
    with Rehearsal(hooks, sites={"berlin": ["10.0.0.0/8"]}) as rehearsal:
        flow = rehearsal.tunnel().udp("203.0.113.5", 53)
        assert flow.record.close_reason == (None if fail_open else "proxy_error")
        assert flow.verdict == ("allowed" if fail_open else "error")
    assert f"hook route: {problem}" in caplog.text


def test_a_client_that_is_not_there_is_unreachable():
    with Rehearsal(Answering("route", "clients")) as rehearsal:
        flow = rehearsal.tunnel().tcp("203.0.113.5", 80)
        assert (flow.record.close_reason, flow.answers) == ("origin_unreachable", ["ICMP 3/1"])


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("level", ["packet", "stream"])
def test_level_lifts(kind, level):
    with Rehearsal(Answering("level", level)) as rehearsal:
        flow = BEGIN[kind](rehearsal.tunnel())
        assert (flow.record.level, flow.record.state) == (
            level,
            "new" if (kind, level) == ("tcp", "packet") else "established",
        )


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("stage", ["flow_start", "connect"])
def test_flow_is_sent_to_another_origin(kind, stage):
    verdict = Verdict(origin=("10.9.9.9", 8080), reason="quarantine")
    with Rehearsal(Answering(stage, verdict), sites={"help": ["10.9.9.0/24"]}) as rehearsal:
        flow = BEGIN[kind](rehearsal.tunnel())
        record = flow.record
        assert (record.dst, record.origin, record.verdict) == ("203.0.113.5", "10.9.9.9:8080", "redirected")
        assert (record.level, record.offramp_tunnel) == ("stream", "help")
        assert (flow.decisions[-1].action, flow.decisions[-1].reason) == ("redirect", "quarantine")


@pytest.mark.parametrize(
    ("kind", "origin", "problem"),
    [("tcp", ("2001:db8::1", 80), "other address family"), ("icmp", ("10.9.9.9", 80), "cannot be redirected")],
)
def test_what_cannot_be_sent_elsewhere_is_not(kind, origin, problem, caplog):
    with Rehearsal(Answering(answer=Verdict(origin=origin))) as rehearsal:
        assert BEGIN[kind](rehearsal.tunnel()).verdict == "error"
    assert problem in caplog.text


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_answer_that_has_expired_is_asked_for_again(kind):
    answers = [Verdict(ttl_s=60), Verdict(ttl_s=60), deny("the session is over")]
    with Rehearsal(hooks := Answering(answer=answers)) as rehearsal:
        flow = BEGIN[kind](rehearsal.tunnel())
        rehearsal.advance(59)
        assert hooks.asked.count("flow_start") == 1
        rehearsal.advance(2)
        assert (hooks.asked.count("flow_start"), flow.record.state == "closed") == (2, False)
        rehearsal.advance(60)
        assert (flow.record.close_reason, flow.decisions[-1].reason) == ("policy_revoked", "the session is over")


def test_of_two_answers_the_earlier_to_expire_counts_and_a_flow_that_is_gone_is_forgotten():
    hooks = Answering(answer=Verdict(ttl_s=60))
    with Rehearsal(hooks, judge=(policy := Policy(Verdict(ttl_s=10)))) as rehearsal:
        client = rehearsal.tunnel()
        flow, gone = client.udp("203.0.113.5", 53), client.udp("203.0.113.6", 53)
        gone.close()
        admission = rehearsal._lifecycle.admission
        assert (list(admission._reviews), list(admission._flows_by_review.values())) == ([flow.flow], [flow.flow])
        rehearsal.advance(11)
        assert (policy.asked, hooks.asked.count("flow_start")) == (3, 3)
        flow.close()
        assert (admission._reviews, admission._flows_by_review) == ({}, {})


@pytest.mark.parametrize("stage", ["flow_start", "route", "level", "connect"])
def test_a_hook_that_raises_ends_its_flow_and_no_other(stage, caplog):
    answers = [ValueError("a bug"), None]

    class Once(Answering):
        def _answer(self, asked, flow):
            answer = answers.pop(0) if asked == stage and answers else None
            if answer is not None:
                raise answer

    with Rehearsal(Once()) as rehearsal:
        client = rehearsal.tunnel()
        broken, other = client.tcp("203.0.113.5", 80), client.tcp("203.0.113.5", 81)
        assert (broken.record.close_reason, broken.verdict) == ("proxy_error", "error")
        assert (other.record.close_reason, other.verdict) == (None, "allowed")
    assert "ValueError: a bug" in caplog.text


def test_a_policy_that_raises_denies(caplog):
    with Rehearsal(judge=Policy(ValueError("a bug"))) as rehearsal:
        assert rehearsal.tunnel().tcp("203.0.113.5", 80).record.close_reason == "proxy_error"
    assert "the policy failed" in caplog.text


def test_denying_policy_is_asked_before_any_hook():
    with Rehearsal(hooks := Answering(), judge=Policy(deny("no"))) as rehearsal:
        rehearsal.tunnel().tcp("203.0.113.5", 80)
        assert hooks.asked == ["flow_end"]
