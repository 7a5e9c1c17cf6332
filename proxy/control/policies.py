"""The control API's paths for policies: policies in force, reload, and explanation of a flow."""

from __future__ import annotations

import time

import msgspec

from proxy.control.http11 import HttpError
from proxy.control.schema import PolicyView
from proxy.policy.answers import Explanation, PolicyInfo, Question, Reloaded
from proxy.policy.facts import imagine
from proxy.settings import DocumentError


def describe(view: PolicyView | None, tenant: str | None, text: bool) -> list[PolicyInfo]:
    """The policies for all tenants and, with `tenant`, those for this one only."""
    policies = [] if view is None else view.describe(text=text)
    return [each for each in policies if tenant is None or each.tenant in (None, tenant)]


async def reload(view: PolicyView | None) -> list[Reloaded]:
    """The result of a reload, or None if the proxy has no policies. Raises HttpError 400 if a file is invalid."""
    if view is None:
        return []
    try:
        return [await view.reload_and_report()]
    except DocumentError as error:
        raise HttpError(400, f"nothing has changed: {error}") from None


def explain(view: PolicyView | None, body: bytes) -> list[Explanation]:
    """The explanation of a flow's decision; empty if no policy covers such a flow."""
    try:
        question = msgspec.json.decode(body, type=Question)
        if view is None:
            imagine(question.flow, question.phase, time.time())  # ValueError: the question is invalid
            return []
        explanation = view.explain(question)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HttpError(400, f"question: {error}") from None
    except ValueError as error:
        raise HttpError(400, str(error.args[0])) from None
    return [] if explanation is None else [explanation]
