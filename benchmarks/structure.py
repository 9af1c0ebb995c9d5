"""How the package is built: size and imports of each part, import circles, the longest files and functions.

    python benchmarks/structure.py

Imports are read from the source by grimp, as import-linter does; those for types alone (TYPE_CHECKING) are counted.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import grimp

PACKAGE = "captionkit"
SOURCE = Path(__file__).resolve().parent.parent / PACKAGE


def part(module: str) -> str:
    """The part of the package that a module belongs to: `captionkit.storage.s3` belongs to `storage`."""
    return [*module.removesuffix(".__init__").split("."), "(top)"][1]


def circles(graph: grimp.ImportGraph) -> list[list[str]]:
    """Groups of modules that import one another, in one step or several."""
    above = {module: graph.find_upstream_modules(module) for module in graph.modules}
    groups = {tuple(sorted({module} | {m for m in above[module] if module in above[m]})) for module in above}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def functions(path: Path) -> Iterable[tuple[int, str]]:
    """Length in lines and place of each function of a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or 0) - node.lineno + 1, f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}"


def main() -> None:
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    place = {path: part(".".join([PACKAGE, *path.relative_to(SOURCE).with_suffix("").parts])) for path in lines}
    arrows = [(one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)]
    outward = Counter((part(a), part(b)) for a, b in arrows if part(a) != part(b))
    print(f"{'package':<12} {'files':>5} {'lines':>6} {'imports inside':>14}  imports of others")
    for name in sorted(set(place.values())):
        own = [lines[path] for path in lines if place[path] == name]
        inside = sum(part(a) == part(b) == name for a, b in arrows)
        others = ", ".join(f"{b} {n}" for (a, b), n in sorted(outward.items()) if a == name)
        print(f"{name:<12} {len(own):>5} {sum(own):>6} {inside:>14}  {others}")
    print(f"{'all':<12} {len(lines):>5} {sum(lines.values()):>6} {len(arrows):>14}  (inside and out)")
    found = circles(graph)
    print(f"\nimport circles: {len(found)}", *("  " + " <-> ".join(group) for group in found), sep="\n")
    longest = sorted(((n, str(path.relative_to(SOURCE))) for path, n in lines.items()), reverse=True)
    print("\nlongest files", *(f"{n:>5}  {name}" for n, name in longest[:10]), sep="\n")
    bodies = sorted((each for path in lines for each in functions(path)), reverse=True)
    print("\nlongest functions", *(f"{n:>5}  {name}" for n, name in bodies[:10]), sep="\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
