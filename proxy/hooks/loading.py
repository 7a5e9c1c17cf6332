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

MIN_SIMILARITY = 0.8  # similarity of a method's name to a hook's from which it is taken for a typing error


def load_hooks(name: str | None) -> Hooks[Any]:
    """Return an instance of the class that `package.module:Class` or `path/to/file.py:Class` names; without a name, of
    the defaults. ProxyError: it cannot be loaded, for the reason given."""
    if name is None:
        return Hooks()
    location, _, class_name = name.rpartition(":")
    kind = _class(_module(name, location), class_name, name)
    for problem in problems(kind):
        raise ProxyError(f"hooks '{name}': {problem}")
    try:
        return kind()
    except Exception as error:
        log.debug("hooks", exc_info=True)
        raise ProxyError(f"hooks '{name}': {class_name}() failed: {_describe_error(error)}") from error


def is_file(location: str) -> bool:
    """Whether the part before the class is the path of a file rather than the name of a module."""
    return location.endswith(".py") or "/" in location


def problems(kind: type[Hooks[Any]]) -> Iterator[str]:
    """Yield the faults of an application's class: wrong signatures, misspelt names, invalid options."""
    for name, member in inspect.getmembers(kind, inspect.isfunction):
        if name in NAMES:
            if member is not getattr(Hooks, name):
                yield from _signature_problems(name, member)
        elif hasattr(member, OPTIONS):
            yield f"@hook on {name}, which is not a hook{_suggest(name, NAMES)}"
        elif inspect.iscoroutinefunction(member) and not name.startswith("_") and (suggestion := _suggest(name, NAMES)):
            yield f"{name} is not a hook{suggestion} (rename a method of your own, or begin it with an underscore)"
    yield from _option_problems("timeout_s and fail_open", kind.timeout_s, kind.fail_open)


def _signature_problems(name: str, member: Any) -> Iterator[str]:
    if not inspect.iscoroutinefunction(member):
        yield f"{name} must be 'async def'"
        return
    expected = inspect.signature(getattr(Hooks, name))
    try:
        inspect.signature(member).bind(*expected.parameters)
    except TypeError as error:
        yield f"{name}{inspect.signature(member)} cannot be called as {name}{_parameter_names(expected)}: {error}"
    if (options := getattr(member, OPTIONS, None)) is not None:
        yield from _option_problems(f"@hook of {name}", *options)


def _option_problems(where: str, timeout_s: object, fail_open: object) -> Iterator[str]:
    if timeout_s is not None and (not isinstance(timeout_s, (int, float)) or not timeout_s > 0):
        yield f"{where}: timeout_s must be a number of seconds (found {timeout_s!r})"
    if fail_open is not None and not isinstance(fail_open, bool):
        yield f"{where}: fail_open must be True or False (found {fail_open!r})"


def _module(name: str, location: str) -> ModuleType:
    if is_file(location):
        return _file(name, Path(location))
    try:
        return importlib.import_module(location)
    except ModuleNotFoundError as error:
        raise ProxyError(f"hooks '{name}': {error}") from error
    except Exception as error:
        raise ProxyError(f"hooks '{name}': importing {location} failed: {_describe_error(error)}") from error


def _file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise ProxyError(f"hooks '{name}': no file {path}{_similar_file(path)}")
    spec = importlib.util.spec_from_file_location(f"proxy_hooks_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ProxyError(f"hooks '{name}': {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look up the module of a class
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ProxyError(f"hooks '{name}': running {path} failed: {_describe_error(error)}") from error
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


def _describe_error(error: BaseException) -> str:
    """The error in one line, with the place in the application's code that raised it."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}: "
    return f"{where}{type(error).__name__}: {error}"


def _suggest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=MIN_SIMILARITY if known is NAMES else 0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def _similar_file(path: Path) -> str:
    others = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, others, n=1)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""


def _parameter_names(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"
