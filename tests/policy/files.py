"""Policies from texts, for tests."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.policy.load import compile_policies
from proxy.settings import DocumentError

NOW = 1_795_860_000.0  # a Saturday, 10:00 UTC


@dataclass
class Text:
    """A policy in memory."""

    path: str
    tenant: str | None
    written: str
    lists: dict[str, str] = field(default_factory=dict)

    def text(self):
        return self.written

    def beside(self, name):
        if name not in self.lists:
            raise DocumentError("no such file or directory", name)
        return self.lists[name]


@dataclass
class Texts:
    """A source of them."""

    files: list[Text]

    def get(self):
        return self.files


def source(acme="", of_all=None, globex=None, lists=None):
    files = [Text("all.yaml", None, of_all, lists or {})] if of_all is not None else []
    files += [Text("acme.yaml", "acme", acme, lists or {})] if acme else []
    return Texts([*files, Text("globex.yaml", "globex", globex, lists or {})] if globex else files)


def compiled(acme="", *, now=NOW, **more):
    """The policies of these texts, for the tenants acme and globex."""
    return compile_policies(source(acme, **more), ("acme", "globex"), now)


def mistake(acme="", **more):
    """What is said of a policy that is not taken."""
    try:
        compiled(acme, **more)
    except DocumentError as error:
        return str(error)
    return None
