"""Loads an application's class by its name or its file's path, and reports any fault in it as one clear error."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from proxy.errors import ProxyError
from proxy.hooks.points import NAMES, OPTIONS, Hooks

log = logging.getLogger(__name__)

ALIKE = 0.8  # similarity of a method's name to a hook's from which it is taken for a typing error


def load_hooks(name: str | None) -> Hooks[Any]:
    """Return an instance of the class that `package.module:Class` or `path/to/file.py:Class` names; without a name, of
    the defaults. ProxyError: it cannot be loaded, for the reason given."""
    if name is None:
        return Hooks()
    place, _, class_name = name.rpartition(":")
    kind = _class(_module(name, place), class_name, name)
    for problem in problems(kind):
        raise ProxyError(f"hooks '{name}': {problem}")
    try:
        return kind()
    except Exception as error:
        log.debug("hooks", exc_info=True)
        raise ProxyError(f"hooks '{name}': {class_name}() failed: {_told(error)}") from error


def is_file(place: str) -> bool:
    """Whether the part before the class is the path of a file rather than the name of a module."""
    return place.endswith(".py") or "/" in place


def problems(kind: type[Hooks[Any]]) -> Iterator[str]:
    """Yield the faults of an application's class: wrong signatures, misspelt names, invalid options."""
    for name, member in inspect.getmembers(kind, inspect.isfunction):
        if name in NAMES:
            if member is not getattr(Hooks, name):
                yield from _signature_problems(name, member)
        elif hasattr(member, OPTIONS):
            yield f"@hook on {name}, which is not a hook{_suggest(name, NAMES)}"
        elif inspect.iscoroutinefunction(member) and not name.startswith("_") and (meant := _suggest(name, NAMES)):
            yield f"{name} is not a hook{meant} (methods of its own begin with an underscore, or have another name)"
    yield from _option_problems("timeout_s and fail_open", kind.timeout_s, kind.fail_open)


def _signature_problems(name: str, member: Any) -> Iterator[str]:
    if not inspect.iscoroutinefunction(member):
        yield f"{name} must be 'async def'"
        return
    expected = inspect.signature(getattr(Hooks, name))
    try:
        inspect.signature(member).bind(*expected.parameters)
    except TypeError as error:
        yield f"{name}{inspect.signature(member)} cannot be called as {name}{_plain(expected)}: {error}"
    if (options := getattr(member, OPTIONS, None)) is not None:
        yield from _option_problems(f"@hook of {name}", *options)


def _option_problems(where: str, timeout_s: object, fail_open: object) -> Iterator[str]:
    if timeout_s is not None and (not isinstance(timeout_s, (int, float)) or not timeout_s > 0):
        yield f"{where}: timeout_s must be a number of seconds (found {timeout_s!r})"
    if fail_open is not None and not isinstance(fail_open, bool):
        yield f"{where}: fail_open must be True or False (found {fail_open!r})"


def _module(name: str, place: str) -> ModuleType:
    if is_file(place):
        return _file(name, Path(place))
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ProxyError(f"hooks '{name}': {error}") from error
    except Exception as error:
        raise ProxyError(f"hooks '{name}': importing {place} failed: {_told(error)}") from error


def _file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise ProxyError(f"hooks '{name}': no file {path}{_beside(path)}")
    spec = importlib.util.spec_from_file_location(f"proxy_hooks_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ProxyError(f"hooks '{name}': {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look up the module of a class
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ProxyError(f"hooks '{name}': running {path} failed: {_told(error)}") from error
    return module


def _class(module: ModuleType, class_name: str, name: str) -> type[Hooks[Any]]:
    kind = getattr(module, class_name, None)
    if kind is None:
        known = [each for each, member in vars(module).items() if _is_hooks(member)]
        raise ProxyError(f"hooks '{name}': no class {class_name!r} there{_suggest(class_name, known)}")
    if not _is_hooks(kind):
        raise ProxyError(f"hooks '{name}': {class_name} is not a subclass of proxy.hooks.Hooks")
    subclass: type[Hooks[Any]] = kind
    return subclass


def _is_hooks(member: object) -> bool:
    return isinstance(member, type) and issubclass(member, Hooks)


def _told(error: BaseException) -> str:
    """The error in one line, with the place in the application's code that raised it."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}: "
    return f"{where}{type(error).__name__}: {error}"


def _suggest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=ALIKE if known is NAMES else 0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def _beside(path: Path) -> str:
    others = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, others, n=1)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""


def _plain(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"
