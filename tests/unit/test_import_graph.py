"""The layers of docs/architecture hold, and no modules import each other in a circle, type-only imports included."""

from __future__ import annotations

import ast
import functools
import gc
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "runstream"

# Each layer may import what stands before it, and itself.
LAYERS: list[set[str]] = [
    {"errors", "clock", "loop_local"},
    {"wire", "events"},
    {"agent"},
    {"models", "flow", "log", "sessions"},
    {"run"},
    {"view"},
    {"observe", "render"},
    {"server"},
    {"testing"},
    {"learn"},
    {"compat"},
    {""},  # the root package
    {"cli"},  # a program that uses the package as its users do
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


@functools.cache
def modules() -> dict[str, ast.Module]:
    found: dict[str, ast.Module] = {}
    gc.disable()  # CPython 3.11 may lose count of its recursion (a SystemError) when the collector runs in the parser
    try:
        for path in sorted(SOURCE.rglob("*.py")):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            found[name] = ast.parse(path.read_text())
    finally:
        gc.enable()
    return found


def imports_of(name: str, tree: ast.Module, known: set[str]) -> set[str]:
    """Modules of the package that `tree` imports anywhere, also inside functions and for types only."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    own = {entry.removeprefix("runstream").lstrip(".") for entry in found if entry.split(".")[0] == "runstream"}
    return {entry for entry in own if entry in known and entry != name}


def graph() -> dict[str, set[str]]:
    trees = modules()
    return {name: imports_of(name, tree, set(trees)) for name, tree in trees.items()}


def layer_of(module: str) -> str:
    return module.split(".")[0]


def test_every_module_belongs_to_a_layer() -> None:
    """A new package must be given its place in the order."""
    assert {layer_of(name) for name in modules()} <= set(RANK)


def test_imports_point_to_the_left() -> None:
    """A module imports only from layers before its own, and never from another package of its own rank."""
    wrong = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        if name != ""
        for target in targets
        if layer_of(target) != layer_of(name) and RANK[layer_of(target)] >= RANK[layer_of(name)]
    ]
    assert wrong == []


def test_no_cycles() -> None:
    """The largest set of modules that import each other has one member."""
    edges = {name: targets for name, targets in graph().items() if name != ""}
    state: dict[str, int] = {}
    cycles: list[str] = []

    def visit(name: str, trail: list[str]) -> None:
        state[name] = 1
        for target in sorted(edges.get(name, ())):
            if state.get(target) == 1:
                cycles.append(" -> ".join([*trail[trail.index(target) :], target]))
            elif target not in state:
                visit(target, [*trail, target])
        state[name] = 2

    for name in edges:
        if name not in state:
            visit(name, [name])
    assert cycles == []
