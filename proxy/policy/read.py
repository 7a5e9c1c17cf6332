"""Compiles a policy file into rules; every error names its file, line and column."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.policy import selectors
from proxy.policy.combinations import check_combination
from proxy.policy.fields import FIELDS
from proxy.policy.language import MAX_CHARACTERS, ExpressionError, Step, Values, compile_expression
from proxy.policy.limits import Limiter
from proxy.policy.lists import Lists, ReadFile
from proxy.policy.model import Default, PolicyText, RuleText, TestText
from proxy.policy.phases import Phase
from proxy.policy.rule import Rule
from proxy.policy.schedule import Schedule
from proxy.settings import Document, DocumentError
from proxy.settings.document import Place
from proxy.settings.parts import endpoint
from proxy.verdict import ALLOW, Decision, HeaderChange, HttpEffects, Verdict

MAX_RULES = 100_000
_USES_RESPONSE = re.compile(r"\bhttp\.(response|download)\.")


@dataclass(frozen=True, slots=True)
class Policy:
    """One compiled file."""

    name: str
    tenant: str | None  # None: all
    version: str
    document: Document
    rules: tuple[Rule, ...]
    lists: dict[str, Values]
    defaults: dict[Phase, Default]
    tests: list[TestText]
    list_files: dict[str, str]  # texts of other files, by their names in the policy


def read_policy(
    document: Document, tenant: str | None, read_file: ReadFile, global_lists: Mapping[str, Values],
) -> Policy:  # fmt: skip
    """Compile the policy in `document`, for a tenant or all, which may use `global_lists`. DocumentError."""
    text = document.convert(PolicyText)
    if len(text.rules) > MAX_RULES:
        raise document.error(f"more than {MAX_RULES:,} rules ({len(text.rules):,})", ("rules",))
    name = text.name or Path(document.file).stem
    list_files: dict[str, str] = {}

    def read(file: str, document: Document, place: Place) -> str:
        list_files[file] = read_file(file, document, place)
        return list_files[file]

    lists = Lists(document, text.lists, read, global_lists).all()
    version = version_of([document.source, *(list_files[file] for file in sorted(list_files))])
    reader = _RuleCompiler(document, name, tenant, version, lists)
    rules = sorted(reader.read(text.rules), key=lambda rule: rule.precedence)
    defaults: dict[Phase, Default] = {}
    if isinstance(text.default, dict):
        defaults = dict(text.default)
    elif text.default is not None:
        defaults = {"network": text.default}
    return Policy(name, tenant, version, document, tuple(rules), lists, defaults, text.tests, list_files)


def version_of(texts: Iterable[str]) -> str:
    """A short hash of the texts."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


class _RuleCompiler:
    def __init__(
        self, document: Document, policy: str, tenant: str | None, version: str, lists: dict[str, Values]
    ) -> None:
        self._document, self._policy, self._tenant, self._version = document, policy, tenant, version
        self._lists = lists
        # many rules have the same condition on a field
        self._compiled: dict[tuple[Phase, bool, str], list[Step]] = {}

    def read(self, texts: list[RuleText]) -> Iterator[Rule]:
        names: dict[str, int] = {}
        precedence = 0
        for index, text in enumerate(texts):
            place: Place = ("rules", index)
            if (earlier := names.setdefault(text.name, index)) != index:
                line = self._document.error("", ("rules", earlier, "name")).line
                raise self._document.error(f"the name '{text.name}' is already used in line {line}", (*place, "name"))
            precedence = precedence if text.precedence is None else text.precedence
            with _errors_at(self._document, place):
                check_combination(text, self._tenant)
            yield self._rule(text, place, precedence)

    def _rule(self, text: RuleText, place: Place, precedence: int) -> Rule:
        document = self._document
        steps = [] if text.when is None else list(self._when(text, place))
        with _errors_at(document, place):
            written = list(selectors.conditions(text, self._lists))
        for key, condition in written:
            if len(condition) > MAX_CHARACTERS:
                message = f"{key}: more values than a rule can hold: put them into a list, and write its name, `$name`"
                raise document.error(message, (*place, key))
            try:
                steps += self._compile(text.phase, condition, is_host=key == "host")
            except ExpressionError as error:
                raise document.error(f"{key}: {error.message}", (*place, key)) from None
        schedule = None
        if text.schedule is not None:
            with _errors_at(document, (*place, "schedule")):
                schedule = Schedule(text.schedule)
        limiter = None
        if text.action == "rate-limit":
            limiter = Limiter(text.flows, text.flows_per_s, text.per or "tenant", text.bytes_per_s)
        action = text.would or "block" if text.action == "audit" else text.action
        decision = Decision(
            stage=text.phase, policy=self._policy, rule=text.name, version=self._version,
            action="block" if action == "deny" else action, enforced=text.action != "audit",
            reason=text.reason if limiter is None else text.reason or limiter.description,
        )  # fmt: skip
        return Rule(
            text.name, self._policy, self._tenant, text.phase, precedence, text.action, self._verdict(text, place),
            decision, steps, document.file, document.error("", place).line, text.enabled, schedule, limiter,
            text.phase == "http" and _USES_RESPONSE.search(text.when or "") is not None,
        )  # fmt: skip

    def _when(self, text: RuleText, place: Place) -> list[Step]:
        assert text.when is not None
        try:
            return self._compile(text.phase, text.when)
        except ExpressionError as error:
            raise self._document.error_inside(error.message, (*place, "when"), error.line, error.column) from None

    def _compile(self, phase: Phase, text: str, *, is_host: bool = False) -> list[Step]:
        steps = self._compiled.get((phase, is_host, text))
        if steps is None:
            lists = self._hosts if is_host else self._lists
            steps = compile_expression(text, FIELDS[phase], lists).steps
            self._compiled[phase, is_host, text] = steps
        return steps

    @functools.cached_property
    def _hosts(self) -> dict[str, Values]:
        return {name: selectors.as_hosts(values) for name, values in self._lists.items()}

    def _verdict(self, text: RuleText, place: Place) -> Verdict:
        reason = text.reason or f"rule {text.name} of policy {self._policy}"
        if text.action == "block":
            page = HttpEffects(status=text.status, page=text.page) if text.phase == "http" else None
            return Verdict(action="deny", reason=reason, refusal=text.refusal or "reset", http=page)
        if text.action in ("redirect", "set-header", "remove-header", "inspect-body"):
            return Verdict(reason=reason, ttl_s=text.ttl_s, http=_effects(text))
        if text.action == "inspect":
            return Verdict(level=text.level or "http", ttl_s=text.ttl_s)
        if text.action == "do-not-inspect":
            return Verdict(level="packet", ttl_s=text.ttl_s)
        if text.action == "route":
            return Verdict(offramp=text.offramp, ttl_s=text.ttl_s)
        if text.action in ("quarantine", "override-origin"):
            assert text.origin is not None
            try:
                address, port = endpoint(text.origin)
            except ValueError as error:
                raise self._document.error(f"origin: {error}", (*place, "origin")) from None
            return Verdict(origin=(str(address), port), reason=reason, ttl_s=text.ttl_s)
        return ALLOW if text.ttl_s is None else Verdict(ttl_s=text.ttl_s)


def _effects(text: RuleText) -> HttpEffects:
    """The effects of a rule of the phase http on a request that it lets pass, or redirects."""
    if text.action == "redirect":
        return HttpEffects(location=text.location, status=text.status)
    if text.action == "inspect-body":
        return HttpEffects(reads=(text.on or "request",))
    if text.headers is not None:
        changes = tuple(HeaderChange(name, value) for name, value in text.headers.items())
    else:
        assert text.header is not None
        changes = (HeaderChange(text.header, text.value if text.action == "set-header" else None),)
    return HttpEffects(response_headers=changes) if text.on == "response" else HttpEffects(request_headers=changes)


@contextlib.contextmanager
def _errors_at(document: Document, place: Place) -> Iterator[None]:
    """Attribute ValueError(message, key) to the key at `place`."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, DocumentError):
            raise
        message, *key = error.args
        raise document.error(str(message), (*place, *key), at_key=bool(key)) from None
