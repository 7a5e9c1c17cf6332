"""What policy and hooks say of a request and its response, and what that does to them."""

from __future__ import annotations

from proxy.inspect.http import pages, rules
from proxy.inspect.http.faults import By, Fault
from proxy.inspect.http.messages import ResponseHead
from proxy.inspect.http.progress import Progress
from proxy.inspect.stream import SessionView
from proxy.verdict import Decision, Verdict, deny


class Ruled(Progress):
    """An exchange, as far as others decide about it."""

    __slots__ = ()

    def refuse(self, fault: Fault, detail: str, *, by: By | None = None) -> None:
        """Tell the client why not."""
        raise NotImplementedError

    def answer(self, head: ResponseHead, body: bytes) -> None:
        """Answer in place of the origin."""
        raise NotImplementedError

    def judge(self, session: SessionView) -> bool:
        """Ask policy; whether the exchange goes on."""
        ruling = session.judge("http", rules.Facts(self.request, self.response, session.client.tls))
        if ruling is None:
            return True
        self.decisions += ruling.decisions
        return self._obey(ruling.verdict)

    def obey_hook(self, hook: str, answer: str | Verdict | None) -> bool:
        """Apply what a hook has said; whether the exchange goes on."""
        if answer is None:
            return True
        verdict = deny(answer) if isinstance(answer, str) else answer
        self.decisions.append(Decision(hook, "hook", verdict.action, reason=verdict.reason))
        return self._obey(verdict)

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
            self.request.headers = rules.changed(self.request.headers, effects.request_headers)
        if verdict.origin is not None and self.requester is None:
            self.origin_address = verdict.origin
            self.outcome = "redirected"
        return True
