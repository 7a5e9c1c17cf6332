"""Calls the hooks that an application has overridden, within their time limits, and contains their failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any

import msgspec

from proxy.hooks.blocking import TimedSteps, Watchdog
from proxy.hooks.points import NAMES, OPTIONS, Hooks
from proxy.verdict import ALLOW, Failure, Verdict, deny

log = logging.getLogger(__name__)

VERDICT_OF_TEXT: dict[str, Callable[[Any], Verdict]] = {  # from other hooks: the reason of a denial
    "route": lambda offramp: Verdict(offramp=offramp),
    "level": lambda level: Verdict(level=level),
}


class HookRunner:
    """Calls an application's hooks. A hook that is not overridden costs a look-up in a set."""

    def __init__(self, hooks: Hooks[Any], *, scheduled: Callable[[], None] = lambda: None) -> None:
        """`scheduled` is called whenever a hook that nothing awaits has been scheduled with asyncio."""
        self.hooks = hooks
        self.watchdog = Watchdog()
        self._on_scheduled = scheduled
        self._overridden = {name for name in NAMES if getattr(type(hooks), name) is not getattr(Hooks, name)}
        self._tasks: set[asyncio.Task[Any]] = set()

    def has(self, name: str) -> bool:
        """Whether the application has overridden the hook `name`."""
        return name in self._overridden

    def start(self) -> None:
        """Watch for hooks that block the loop, if any hook is overridden."""
        if self._overridden:
            self.watchdog.start()

    def stop(self) -> None:
        """Stop watching."""
        self.watchdog.stop()

    async def notify(self, name: str, *arguments: object) -> None:
        """Call a hook that only observes, and wait for it."""
        if self.has(name):
            await self._call(name, arguments)

    def notify_soon(self, name: str, *arguments: object) -> None:
        """As `notify`, without waiting for the hook."""
        if self.has(name):
            self.spawn(self._call(name, arguments))

    async def ask(self, name: str, argument: object) -> Verdict:
        """The verdict of a deciding hook; `ALLOW` itself if the hook returns None or is not overridden."""
        if not self.has(name):
            return ALLOW
        answer = await self._call(name, (argument,))
        return answer if isinstance(answer, Failure) else self._verdict(name, answer, _flow(argument))

    async def ask_for_inspector(self, name: str, argument: object) -> bytes | Verdict:
        """As `ask`, for a hook of an inspected session; from `http_body` also bytes, which replace the part."""
        if name != "http_body":
            return await self.ask(name, argument)
        answer = await self._call(name, (argument,))
        if isinstance(answer, bytes | bytearray):
            return bytes(answer)
        if isinstance(answer, Failure):
            return answer
        return self._verdict(name, answer, _flow(argument), "bytes, a text, a Verdict or None")

    async def fetch(self, name: str, argument: object, kind: type[Any]) -> Any:
        """The result of a hook that returns an object: a `kind`, a text, None, or a Failure."""
        if not self.has(name):
            return None
        answer = await self._call(name, (argument,))
        if answer is None or isinstance(answer, (str, kind, Failure)):
            return answer
        return self._wrong_type(name, answer, _flow(argument), f"a {kind.__name__}, a text or None")

    def ask_then(self, name: str, argument: object, then: Callable[[Verdict], None]) -> None:
        """Call `then` with the verdict: at once if the hook is not overridden."""
        if not self.has(name):
            then(ALLOW)
            return

        async def run() -> None:
            then(await self.ask(name, argument))

        self.spawn(run())

    def spawn(self, work: Coroutine[Any, Any, Any], failed: Callable[[], None] = lambda: None) -> None:
        """Run `work` in the background. An unexpected error is logged, and then `failed` is called."""

        async def run() -> None:
            try:
                await work
            except Exception:
                log.exception("unexpected error after a hook")
                failed()

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._on_scheduled()

    def failure(self, name: str, why: str) -> Verdict:
        """The verdict in place of that of a hook that has failed: a denial, unless it fails open."""
        if self._options(name)[1]:
            return Verdict(reason=f"{why}, and it fails open")
        return Failure(action="deny", reason=why)

    async def drain(self) -> None:
        """Wait for everything that runs in the background."""
        while started := list(self._tasks):
            await asyncio.gather(*started, return_exceptions=True)
            # here, as gather() of tasks that are all done lets no callback of theirs run (Python 3.12 and later)
            self._tasks.difference_update(started)

    def _options(self, name: str) -> tuple[float, bool]:
        """The time limit of a hook in seconds, and whether it fails open."""
        timeout_s, fail_open = getattr(getattr(self.hooks, name), OPTIONS, (None, None))
        return (
            self.hooks.timeout_s if timeout_s is None else timeout_s,
            self.hooks.fail_open if fail_open is None else fail_open,
        )

    async def _call(self, name: str, arguments: tuple[object, ...]) -> Any:
        hook: Callable[..., Coroutine[Any, Any, Any]] = getattr(self.hooks, name)
        timeout_s, _ = self._options(name)
        try:
            async with asyncio.timeout(timeout_s):
                return await TimedSteps(name, hook(*arguments), self.watchdog)
        except TimeoutError:
            log.warning("hook %s took longer than %g s%s", name, timeout_s, _flow(*arguments))
            return self.failure(name, f"hook {name} took longer than {timeout_s:g} s")
        except (Exception, SystemExit):  # a sys.exit() in a hook must only affect its own flow
            log.exception("hook %s failed%s", name, _flow(*arguments))
            return self.failure(name, f"hook {name} failed")

    def _verdict(self, name: str, answer: Any, flow: str, expected: str = "a text, a Verdict or None") -> Verdict:
        if answer is None:
            return ALLOW
        if isinstance(answer, str):
            answer = VERDICT_OF_TEXT.get(name, deny)(answer)
        if not isinstance(answer, Verdict):
            return self._wrong_type(name, answer, flow, expected)
        if problem := _problem(answer) or self._unread_bodies(answer):
            log.warning("hook %s returned %r: %s%s", name, answer, problem, flow)
            return self.failure(name, f"hook {name} returned an invalid verdict: {problem}")
        return answer

    def _unread_bodies(self, verdict: Verdict) -> str | None:
        if verdict.http is not None and verdict.http.reads and not self.has("http_body"):
            return "`reads` asks for bodies, and there is no hook http_body"
        return None

    def _wrong_type(self, name: str, answer: object, flow: str, expected: str) -> Verdict:
        log.warning("hook %s returned %r (%s): expected %s%s", name, answer, type(answer).__name__, expected, flow)
        return self.failure(name, f"hook {name} returned {type(answer).__name__}")


def _flow(*arguments: object) -> str:
    """The flow that a hook was called about, for the log; empty if the call is not about a flow."""
    for argument in arguments:
        context = getattr(argument, "flow", argument)  # a request, a channel, ... refers to its flow
        if (flow_id := getattr(context, "flow_id", None)) is not None:
            return f" (flow {flow_id})"
    return ""


def _problem(verdict: Verdict) -> str | None:
    """What is invalid about an application's verdict; None: nothing."""
    try:
        msgspec.convert(msgspec.to_builtins(verdict), Verdict)
        if verdict.origin is not None:
            ip_address(verdict.origin[0])
    except (TypeError, ValueError) as error:  # msgspec.ValidationError is one
        return str(error)
    if verdict.origin is not None and not 0 < verdict.origin[1] < 65_536:
        return f"no port has the number {verdict.origin[1]}"
    if verdict.ttl_s is not None and not verdict.ttl_s > 0:
        return "ttl_s must be more than 0"
    return None
