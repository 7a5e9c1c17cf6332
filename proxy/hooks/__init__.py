"""The points in the life of tunnels and flows at which an application can observe or decide.

`points` lists them in order, each with its default. `runner` calls those that an application has overridden, `blocking`
detects hooks that block the event loop, `loading` finds the application's class.
"""

from proxy.context import TunnelContext
from proxy.flow.context import FlowContext
from proxy.hooks.loading import load_hooks
from proxy.hooks.messages import (
    DnsQuery,
    HttpBodyPart,
    HttpRequest,
    HttpResponse,
    SshAuth,
    SshChannel,
    SshExec,
    TlsClientHello,
    WebSocketMessage,
)
from proxy.hooks.points import Hooks, hook
from proxy.hooks.runner import HookRunner
from proxy.verdict import HeaderChange, HttpAnswer, HttpEffects, Verdict, deny

__all__ = [
    "DnsQuery",
    "FlowContext",
    "HeaderChange",
    "HookRunner",
    "Hooks",
    "HttpAnswer",
    "HttpBodyPart",
    "HttpEffects",
    "HttpRequest",
    "HttpResponse",
    "SshAuth",
    "SshChannel",
    "SshExec",
    "TlsClientHello",
    "TunnelContext",
    "Verdict",
    "WebSocketMessage",
    "deny",
    "hook",
    "load_hooks",
]
