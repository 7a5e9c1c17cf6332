"""Every point of a flow's life where an application can look in or decide, in order, each with its default."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Literal

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from proxy.context import TunnelContext
    from proxy.flow.record import FlowRecord

log = logging.getLogger(__name__)

_FAILED = "failed"


class Hooks:
    """Subclass it, override what you need, and name the class in `hooks:` of proxy.yaml as `module:Class`.

    Deciding hooks return None to allow, or the reason of a denial; `level` None or its choice. One that raises or
    takes longer than `timeout_s` denies (`fail_open = False`) or allows. A hook that is not overridden costs nothing.
    """

    timeout_s = 5.0
    fail_open = False

    async def startup(self) -> None:
        """Before the first tunnel is accepted."""

    async def tunnel_open(self, context: TunnelContext) -> str | None:
        """A tunnel has introduced itself and passed its checks. A text refuses it with that reason."""
        return None

    async def tunnel_close(self, context: TunnelContext) -> None:
        """A tunnel that was open is closed."""

    async def flow_start(self, flow: FlowRecord) -> str | None:
        """A flow's first packet is here, and nothing has left the proxy. A text denies the flow with that reason."""
        return None

    async def level(self, flow: FlowRecord) -> Literal["packet", "stream"] | None:
        """The flow may be, and its next hop is a tunnel: how high is it lifted?

        "packet": its packets are forwarded unread. "stream": its bytes pass a socket of ours and become packets again.
        None leaves it to the route. Of ICMP flows nobody asks: they are forwarded.
        """
        return None

    async def connected(self, flow: FlowRecord) -> None:
        """The origin has answered."""

    async def connect_failed(self, flow: FlowRecord) -> None:
        """The origin refused, was unreachable, or did not answer in time."""

    async def flow_end(self, flow: FlowRecord) -> None:
        """The flow is over; called exactly once for each flow that `flow_start` was called for."""

    async def shutdown(self) -> None:
        """After the last flow has ended."""


class HookRunner:
    """Calls the hooks that an application has overridden, within their time, and keeps their failures from flows."""

    def __init__(self, hooks: Hooks, *, scheduled: Callable[[], None] = lambda: None) -> None:
        """`scheduled` is called whenever asyncio has a hook to run that nobody awaits."""
        self.hooks = hooks
        self._scheduled = scheduled
        self._overridden = {name for name in vars(Hooks) if getattr(type(hooks), name) is not getattr(Hooks, name)}
        self._tasks: set[asyncio.Task[Any]] = set()

    def has(self, name: str) -> bool:
        """Whether the application has overridden the hook `name`."""
        return name in self._overridden

    async def notify(self, name: str, *arguments: object) -> None:
        """Call a hook that decides nothing."""
        if self.has(name):
            await self._call(name, arguments, failed=None)

    def notify_soon(self, name: str, *arguments: object) -> None:
        """The same, without waiting for it."""
        if self.has(name):
            self._spawn(self._call(name, arguments, failed=None))

    async def ask(self, name: str, *arguments: object) -> str | None:
        """Why not, or None: the answer of a hook that decides."""
        if not self.has(name):
            return None
        return await self._call(name, arguments, failed=None if self.hooks.fail_open else f"hook {name} failed")

    def ask_then(self, name: str, argument: object, then: Callable[[str | None], None]) -> None:
        """Call `then` with the answer: at once when nobody is to be asked."""
        if not self.has(name):
            then(None)
            return

        async def run() -> None:
            answer = await self.ask(name, argument)
            try:
                then(answer)
            except Exception:
                log.exception("unexpected error after hook %s", name)

        self._spawn(run())

    def choose_then(
        self, name: str, argument: object, choices: Collection[str], then: Callable[[str | None, str | None], None]
    ) -> None:
        """Call `then(choice, denial)` with what a hook chooses; both are None when it leaves the choice to us."""
        if not self.has(name):
            then(None, None)
            return

        async def run() -> None:
            choice, denial = await self._call(name, (argument,), failed=_FAILED), None
            if choice is not None and choice not in choices:
                if choice is not _FAILED:
                    log.warning("hook %s chose %r: expected one of %s, or None", name, choice, ", ".join(choices))
                choice, denial = None, None if self.hooks.fail_open else f"hook {name} failed"
            try:
                then(choice, denial)
            except Exception:
                log.exception("unexpected error after hook %s", name)

        self._spawn(run())

    async def drain(self) -> None:
        """Wait for what was started and not waited for."""
        while started := list(self._tasks):
            await asyncio.gather(*started, return_exceptions=True)
            # not left to their callbacks: of tasks that are all done, gather() lets none run (Python 3.12 and later)
            self._tasks.difference_update(started)

    async def _call(self, name: str, arguments: tuple[object, ...], failed: str | None) -> str | None:
        hook: Callable[..., Awaitable[str | None]] = getattr(self.hooks, name)
        try:
            return await asyncio.wait_for(hook(*arguments), self.hooks.timeout_s)
        except TimeoutError:
            log.warning("hook %s took longer than %s s", name, self.hooks.timeout_s)
        except Exception:
            log.exception("hook %s failed", name)
        return failed

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._scheduled()


def load_hooks(name: str | None) -> Hooks:
    """An instance of the class that `module:Class` names; ProxyError says what is wrong with it."""
    if name is None:
        return Hooks()
    module_name, _, class_name = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ProxyError(f"hooks '{name}': {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Hooks)):
        raise ProxyError(f"hooks '{name}': not a subclass of proxy.hooks.Hooks")
    return kind()
