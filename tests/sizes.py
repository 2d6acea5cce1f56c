"""The house's sizes, as a report: modules over 500 lines, functions over 100, test files over 800, and the core's sum.

Exits with an error only for a function or module that is over and has no reason in REASONS. Run by `make lint`.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What is over, and why it is better so.
REASONS: dict[str, str] = {}
CORE_BUDGET = 12_000


def long_functions(path: Path) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > 100:
                found.append((node.name, size))
    return found


def main() -> int:
    over: list[tuple[str, int]] = []
    total = testing = 0
    for path in sorted((ROOT / "src").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        lines = path.read_text().count("\n")
        total += lines
        testing += lines if "/testing/" in name else 0
        if lines > 500:
            over.append((name, lines))
        over += [(f"{name}:{function}", size) for function, size in long_functions(path)]
    for path in sorted((ROOT / "tests").rglob("*.py")):
        lines = path.read_text().count("\n")
        if lines > 800:
            over.append((str(path.relative_to(ROOT)), lines))
    for name, size in over:
        print(f"{name}: {size} lines; {REASONS.get(name, 'no reason given')}")
    print(f"src: {total} lines, of which the test kit {testing}; the budget of the rest is {CORE_BUDGET}")
    return 1 if any(name not in REASONS for name, _ in over) else 0


if __name__ == "__main__":
    sys.exit(main())
