"""Applies verdicts of policies and hooks to a request and its response."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from proxy.inspect.http import pages, rules
from proxy.inspect.http.body import HOOK
from proxy.inspect.http.faults import By, Fault
from proxy.inspect.http.messages import ResponseHead
from proxy.inspect.http.progress import Progress
from proxy.inspect.stream import SessionView
from proxy.verdict import Decision, Ruling, Verdict, deny


class VerdictHandling(Progress):
    """The part of an exchange that is about verdicts."""

    __slots__ = ()

    def refuse(self, fault: Fault, detail: str, *, by: By | None = None) -> None:
        """Answer with an error page."""
        raise NotImplementedError

    def answer(self, head: ResponseHead, body: bytes) -> None:
        """Answer in place of the origin."""
        raise NotImplementedError

    def wait(self) -> None:
        """Pause the client."""
        raise NotImplementedError

    def settle(self) -> None:
        """Flush what was written after an answer of the proxy."""
        raise NotImplementedError

    def admit(self, session: SessionView, then: Callable[[], None]) -> None:
        """Evaluate policies for the request. `then` is called if it may continue: at once, or after its limits were
        checked."""
        ruling = self._ruling(session)
        if ruling is not None and ruling.limits:
            self.wait()
            session.count(ruling.limits, lambda denial: self._limits_checked(ruling, denial, then))
        elif self._follow(ruling):
            then()

    def judge_response(self, session: SessionView) -> bool:
        """Evaluate policies for the response. Returns whether the exchange continues."""
        return self._follow(self._ruling(session))

    def _ruling(self, session: SessionView) -> Ruling | None:
        return session.judge("http", rules.Facts(self.request, self.response, session.client.tls))

    def _follow(self, ruling: Ruling | None) -> bool:
        if ruling is None:
            return True
        self.decisions += ruling.decisions
        return self._obey(ruling.verdict)

    def _limits_checked(self, ruling: Ruling, denial: Ruling | None, then: Callable[[], None]) -> None:
        if self.is_done:
            return
        if denial is not None:  # decisions before the rule with this limit remain
            denied_by = denial.decisions[0].policy, denial.decisions[0].rule
            before = takewhile(lambda each: (each.policy, each.rule) != denied_by, ruling.decisions)
            ruling = Ruling(denial.verdict, [*before, *denial.decisions])
        if self._follow(ruling):
            then()
        self.settle()

    def obey_hook(self, hook: str, answer: str | Verdict | None) -> bool:
        """Apply a hook's answer. Returns whether the exchange continues."""
        if answer is None:
            return True
        verdict = deny(answer) if isinstance(answer, str) else answer
        self.decisions.append(Decision(hook, "hook", verdict.action, reason=verdict.reason))
        return self._obey(verdict)

    def body_answered(self, answer: str | Verdict) -> bool:
        """Apply the answer of the hook that reads bodies. Returns whether the exchange continues."""
        return self.obey_hook(HOOK, answer)

    def _obey(self, verdict: Verdict) -> bool:
        effects = verdict.http
        if effects is not None:
            self.effects = effects
            self.response_changes += effects.response_headers
            self.judges_response = self.judges_response or effects.judge_response
            self.reads |= {*effects.reads}
        if verdict.is_denial:
            is_failure = verdict.ending == "proxy_error"
            self.refuse(Fault.HOOK_FAILED if is_failure else Fault.DENIED, verdict.reason or "denied", by="proxy")
            return False
        if effects is not None and (effects.location is not None or effects.answer is not None):
            self.outcome = "redirected"
            self.answer(*(pages.redirect(effects) if effects.answer is None else pages.answer(effects.answer)))
            return False
        if effects is not None and effects.request_headers and self.response is None:
            self.request.headers = rules.apply_changes(self.request.headers, effects.request_headers)
        if verdict.origin is not None and self.requester is None:
            self.origin_address = verdict.origin
            self.outcome = "redirected"
        return True
