"""Valid combinations in a rule: the actions of each phase, and the keys of each action."""

from __future__ import annotations

from proxy.policy.model import Action, RuleText
from proxy.policy.phases import Phase
from proxy.settings import suggest
from proxy.settings.sites import SITE

OFF_RAMPS = ("sockets", "kernel", "clients")
_ACTIONS: dict[Phase, tuple[Action, ...]] = {
    "tunnel": ("allow", "block", "audit", "log"),
    "dns": ("allow", "block", "audit", "log", "rate-limit"),
    "network": ("allow", "block", "audit", "log", "inspect", "do-not-inspect", "route", "rate-limit", "quarantine"),
    "egress": ("allow", "block", "audit", "log", "route"),
    "tls": ("allow", "block", "audit", "log", "inspect", "do-not-inspect"),
    "ssh": ("allow", "block", "audit", "log"),
    "http": (
        "allow",
        "block",
        "audit",
        "log",
        "rate-limit",
        "quarantine",
        "redirect",
        "override-origin",
        "set-header",
        "remove-header",
        "inspect-body",
    ),
}
_KEYS: dict[str, tuple[Action, ...]] = {
    "refusal": ("block",),
    "would": ("audit",),
    "level": ("inspect",),
    "offramp": ("route",),
    "origin": ("quarantine", "override-origin"),
    "status": ("block", "redirect"),
    "page": ("block",),
    "location": ("redirect",),
    "header": ("set-header", "remove-header"),
    "value": ("set-header",),
    "headers": ("set-header",),
    "on": ("set-header", "remove-header", "inspect-body"),
    "flows": ("rate-limit",),
    "flows_per_s": ("rate-limit",),
    "bytes_per_s": ("rate-limit",),
    "per": ("rate-limit",),
    "ttl_s": ("allow", "inspect", "do-not-inspect", "route", "quarantine"),
}
_REQUIRED: dict[Action, tuple[str, ...]] = {
    "route": ("offramp",),
    "quarantine": ("origin",),
    "override-origin": ("origin",),
    "redirect": ("location",),
    "remove-header": ("header",),
}
_HTTP_ONLY = ("status", "page")
_REFUSING: tuple[Phase, ...] = ("network", "egress", "tls")  # other phases answer in their own protocol


def check_combination(rule: RuleText, tenant: str | None) -> None:
    """Raise ValueError (the fault, the key) if the parts of a rule contradict each other."""
    action, phase = rule.action, rule.phase
    allowed = _ACTIONS[phase]
    if action not in allowed:
        raise ValueError(f"a rule of phase {phase} cannot {action}: expected one of {', '.join(allowed)}", "action")
    for key, actions in _KEYS.items():
        if getattr(rule, key) is not None and action not in actions:
            raise ValueError(f"'{key}' belongs to {' or '.join(actions)}, and this rule is {action}", key)
    for required in _REQUIRED.get(action, ()):
        if getattr(rule, required) is None:
            raise ValueError(f"{action} needs '{required}'", "action")
    if action == "set-header" and (rule.header is None or rule.value is None) and rule.headers is None:
        raise ValueError("set-header needs 'header' and 'value', or 'headers'", "action")
    if rule.headers is not None and rule.header is not None:
        raise ValueError("'headers' replaces 'header' and 'value'", "headers")
    for key in _HTTP_ONLY:
        if getattr(rule, key) is not None and phase != "http":
            raise ValueError(f"'{key}' is for phase http", key)
    if rule.status is not None and (rule.status < 400) != (action == "redirect"):
        raise ValueError("a block has a status of 400 to 599, a redirect one of 300 to 399", "status")
    if rule.offramp is not None and rule.offramp not in OFF_RAMPS and not rule.offramp.startswith(SITE):
        hint = suggest(rule.offramp, (*OFF_RAMPS, f"{SITE}NAME"))
        raise ValueError(f"unknown off-ramp '{rule.offramp}'{hint}", "offramp")
    if rule.refusal is not None and phase not in _REFUSING:
        raise ValueError(f"'refusal' is for phases {', '.join(_REFUSING)}", "refusal")
    if action == "rate-limit" and rule.flows is rule.flows_per_s is rule.bytes_per_s is None:
        raise ValueError("rate-limit needs 'flows' (at once), 'flows_per_s', 'bytes_per_s', or several", "action")
    if rule.flows is not None and phase == "http":
        raise ValueError("'flows' counts flows, and this rule is about requests: 'flows_per_s' bounds them", "flows")
    if rule.bytes_per_s is not None and phase != "network":
        raise ValueError("'bytes_per_s' is for phase network", "bytes_per_s")
    if action == "inspect" and rule.level == "packet":
        raise ValueError("inspect lifts to stream, tls, http or ssh; for packet there is do-not-inspect", "level")
    if rule.tenant is not None and tenant is not None:
        raise ValueError(f"'tenant' is for the global policy: this one is {tenant}'s", "tenant")
    if rule.schedule is not None and not any(key != "time_zone" for key in rule.schedule):
        raise ValueError("a schedule names at least one day", "schedule")
