"""The one import rule of the house, as a check of any source tree."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

_BELOW: Mapping[str, frozenset[str]] = {
    "models": frozenset(),
    "config": frozenset(),
    "core": frozenset({"models", "config"}),
    "workers": frozenset({"models", "config", "core"}),
    "services": frozenset({"models", "config", "core"}),
    "api": frozenset({"models", "config", "core"}),
    "training": frozenset({"models", "config", "core"}),
    "dashboard": frozenset(),
}
# Each may import all that stands below it.
_ABOVE_ALL = ("workers.runtime", "commands", "main")
PACKAGES = frozenset({*_BELOW, "commands", "main"})
_FORBIDDEN_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "managers"})


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's target, seen from the file that holds it."""

    target: str
    line: int


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed source file of ours; ``name`` is dotted."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """The room that the module stands in."""
        return self.name.partition(".")[0]


def violations(root: Path) -> list[str]:
    """Every breach of the rule in the tree under ``root``, as sentences with file and line; empty when it is kept."""
    modules = {module.name: module for module in _modules(root)}
    found: list[str] = []
    for module in modules.values():
        place = module.path.relative_to(root)
        imports = list(_imports(module, modules))
        found += [f"{place}:{i.line}: {problem}" for i in imports if (problem := _problem(module.name, i.target))]
        found += [f"{place}:{line}: reads the environment at import" for line in _environment_reads(module.tree)]
        found += [f"{place}: {problem}" for problem in _naming_problems(module)]
    return found + _cycles(modules)


def _modules(root: Path) -> Iterator[Module]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] in PACKAGES:
            dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield Module(dotted, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))


def _imports(module: Module, modules: Mapping[str, Module]) -> Iterator[Import]:
    """All imports of our packages, wherever they stand: in functions, under TYPE_CHECKING, by ``import_module``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            targets = _import_from(module, node, modules)
        else:
            targets = _dynamic_import(node)
        yield from (Import(target, _line(node)) for target in targets if target.partition(".")[0] in PACKAGES)


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _import_from(module: Module, node: ast.ImportFrom, modules: Mapping[str, Module]) -> list[str]:
    origin = node.module or ""
    if node.level:
        own = module.name.split(".") if module.path.stem == "__init__" else module.name.split(".")[:-1]
        above = own[: len(own) - node.level + 1]
        origin = ".".join([*above, origin] if origin else above)
    submodules = [f"{origin}.{alias.name}" for alias in node.names]
    return [name if name in modules or name in _ABOVE_ALL else origin for name in submodules]


def _dynamic_import(node: ast.AST) -> list[str]:
    match node:
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(target)), *_],
        ):
            return [target]
    return []


def _problem(importer: str, target: str) -> str | None:
    room, other = importer.partition(".")[0], target.partition(".")[0]
    if _height(target) > _height(importer):
        return f"imports {target}, which stands above everything"
    if _height(importer) or room == other or other in _BELOW[room]:
        return None
    return f"{room} must not import {other} ({target})"


def _height(name: str) -> int:
    """0 for what stands on no more than its floor."""
    return next((n for n, top in enumerate(_ABOVE_ALL, start=1) if f"{name}.".startswith(f"{top}.")), 0)


def _environment_reads(tree: ast.Module) -> Iterator[int]:
    for node in _executed_at_import(tree):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}:
            yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (node.lineno for alias in node.names if alias.name in {"environ", "environb", "getenv"})


def _executed_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that importing the module evaluates: all but the bodies of its functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*child.decorator_list, child.args):
                yield from ast.walk(part)
        elif isinstance(child, ast.Lambda):
            yield from ast.walk(child.args)
        else:
            yield child
            yield from _executed_at_import(child)


def _naming_problems(module: Module) -> Iterator[str]:
    bad = _FORBIDDEN_NAMES.intersection(module.name.split("."))
    yield from (f"{name!r} says nothing about what is in it" for name in sorted(bad))
    if module.path.stem == "__init__" and module.path.read_text(encoding="utf-8").strip():
        yield "__init__.py must be empty"


def _cycles(modules: Mapping[str, Module]) -> list[str]:
    graph = {
        name: {imported.target for imported in _imports(module, modules)} - {name} for name, module in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"import cycle: {' -> '.join(error.args[1])}"]
    return []
