"""Which module imports which, read from the source; and the rules that an import can break."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Import:
    """One imported module, and where."""

    importer: str
    imported: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.importer} imports {self.imported}"


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def imports_of(
    source: str, module: str, file: str = "<text>", *, is_package: bool = False, with_types: bool = False
) -> list[Import]:
    """Every import that runs, also inside functions; `from package import name` counts as `package.name` where that
    is a module, and relative ones are resolved. `with_types`: also what only type checkers execute."""
    tree = ast.parse(source)
    return _imports_among(ast.walk(tree) if with_types else _running(tree), module, file, is_package)


def _imports_among(nodes: Iterable[ast.AST], module: str, file: str, is_package: bool) -> list[Import]:
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = _from(node, module, is_package)
        elif isinstance(node, ast.Call) and (name := _dynamic(node)):
            names = [name]
        else:
            continue
        found += [Import(module, name, file, node.lineno) for name in names]
    return found


def imports_in(*packages: str, with_types: bool = False) -> tuple[Import, ...]:
    return tuple(found for path in sources(*packages) for found in _imports_in_file(path)[with_types])


@cache
def _imports_in_file(path: Path) -> tuple[list[Import], list[Import]]:
    """Those that run, and all: every file is parsed once for all tests."""
    tree, names = ast.parse(path.read_text()), (module_name(path), str(path.relative_to(ROOT)))
    is_package = path.name == "__init__.py"
    return (
        _imports_among(_running(tree), *names, is_package),
        _imports_among(ast.walk(tree), *names, is_package),
    )


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and any(_name_of(part) == "TYPE_CHECKING" for part in ast.walk(node.test)):
            for other in node.orelse:
                yield other
                yield from _running(other)
            continue
        yield node
        yield from _running(node)


def _from(node: ast.ImportFrom, module: str, is_package: bool) -> list[str]:
    base = node.module or ""
    if node.level:
        parent = module.split(".")
        keep = len(parent) - node.level + is_package
        base = ".".join([*parent[:keep], *filter(None, [node.module])])
    return [f"{base}.{alias.name}" if _is_module(f"{base}.{alias.name}") else base for alias in node.names]


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _name_of(node: ast.AST) -> str | None:
    """`b` of `b` and of `a.b`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _dynamic(node: ast.Call) -> str | None:
    """The module of `importlib.import_module("...")` and `__import__("...")`, where it is written out."""
    if _name_of(node.func) not in ("import_module", "__import__") or not node.args:
        return None
    name = node.args[0]
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


def forbidden(found: Iterable[Import], package: str, banned: dict[str, str]) -> list[str]:
    """Each import in `package` of one of `banned`, with the reason why it is."""
    return [
        f"{each}: {reason}"
        for each in found
        if is_within(each.importer, package)
        for module, reason in banned.items()
        if is_within(each.imported, module)
    ]


def outside(found: Iterable[Import], package: str, of: str, allowed: dict[str, str]) -> list[str]:
    """Each import in `package` from the package `of` that is not among `allowed`."""
    return [
        str(each)
        for each in found
        if is_within(each.importer, package)
        and is_within(each.imported, of)
        and not any(is_within(each.imported, module) for module in allowed)
    ]


def rank(module: str, layers: tuple[str, ...]) -> int | None:
    """The height of the layer that a module is in: of the longest name that it is within."""
    names = [layer for layer in layers if is_within(module, layer)]
    return layers.index(max(names, key=len)) if names else None


def upward(found: Iterable[Import], layers: tuple[str, ...]) -> list[str]:
    """Each import of a higher layer by a lower one."""
    result = []
    for each in found:
        low, high = rank(each.importer, layers), rank(each.imported, layers)
        if low is not None and high is not None and high > low:
            result.append(f"{each}, which stands above it")
    return result


def circles(found: Iterable[Import]) -> list[list[str]]:
    """The groups of modules that import each other, directly or by way of others (Tarjan's algorithm)."""
    graph: dict[str, set[str]] = {}
    for each in found:
        if each.importer != each.imported:
            graph.setdefault(each.importer, set()).add(each.imported)
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    result: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in sorted(graph.get(module, ())):
            if other not in number:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], number[other])
        if low[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                result.append(sorted(group))

    for module in sorted(graph):
        if module not in number:
            visit(module)
    return result
