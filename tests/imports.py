"""How the modules of harness/ and methods/ hang together: `python -m tests.imports [--run]`.

A floor is the longest chain of imports below a module, imports in functions and for type checkers included. `--run`
draws one image on the embedded model and counts the files whose functions it enters, and the calls from a file into one
of a higher floor.
"""

from __future__ import annotations

import ast
import cProfile
import pstats
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("harness", "methods")

Graph = Mapping[str, set[str]]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the files of the packages by the names of their modules."""
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    named = {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    return {name: file for name, file in named.items() if name not in PACKAGES}  # those only pass names on


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Return what each module imports of the packages, wherever in its file."""
    known = modules(root)
    graph: dict[str, set[str]] = {}
    for module, file in known.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= inner & known.keys() or {node.module}
        graph[module] = {name for name in named if name in known and name != module}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of modules that import each other (Tarjan's strongly connected components)."""
    found: list[list[str]] = []
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph[module]:
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            found.append(sorted(group))

    for module in graph:
        if module not in index:
            visit(module)
    return [group for group in found if len(group) > 1]


def floors(graph: Graph) -> dict[str, int]:
    """Return each module's floor; modules of a circle share theirs."""
    group_of = {module: group[0] for group in circles(graph) for module in group}
    known: dict[str, int] = {}

    def floor(module: str) -> int:
        head = group_of.get(module, module)
        if head not in known:
            members = [name for name in graph if group_of.get(name, name) == head]
            below = {group_of.get(name, name) for member in members for name in graph[member]} - {head}
            known[head] = 1 + max(map(floor, below), default=0)
        return known[head]

    return {module: floor(module) for module in graph}


def longest_chain(graph: Graph) -> list[str]:
    """Return modules from the highest floor down, each importing the next."""
    height = floors(graph)
    chain = [max(height, key=lambda module: height[module])]
    while graph[chain[-1]]:
        chain.append(max(graph[chain[-1]], key=lambda module: height[module]))
    return chain


def entered(height: Mapping[str, int]) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the modules whose functions one run enters, and the calls from one into another of a higher floor."""
    from harness.__main__ import main

    by_file = {str(file): module for module, file in modules().items()}
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as results:
        profile.runcall(main, ["method=sld_medium", "limit=1", "pool=inline", "tracker=disabled",
                               "bench.num_inference_steps=2", f"results={results}"])
    calls: Mapping[tuple[str, int, str], tuple[int, int, float, float, Mapping[tuple[str, int, str], object]]]
    calls = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    run = {place: by_file[place[0]] for place in calls if place[0] in by_file and place[2] != "<module>"}
    pairs = {(run[caller], module) for place, module in run.items() for caller in calls[place][4] if caller in run}
    return set(run.values()), {(low, high) for low, high in pairs if height[high] > height[low]}


def main(words: list[str]) -> int:
    graph = imports()
    height = floors(graph)
    rooted = [file for file in (ROOT / "harness").glob("*.py") if file.name != "__init__.py"]
    print(f"modules: {len(graph)}; in the root of harness/: {len(rooted)}")
    print(f"floors: {max(height.values())}; circles: {len(circles(graph))}")
    print("longest chain: " + " > ".join(longest_chain(graph)))
    if "--run" in words:
        files, climbs = entered(height)
        print(f"files that one run enters: {len(files)}; pairs of files with a call up: {len(climbs)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
