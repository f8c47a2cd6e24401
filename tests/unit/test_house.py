"""How the sources are laid out: no circle, at any level, and no two modules of one name."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "server", "utils")
TYPES_ONLY = {frozenset({"core.cloud.store.sqlite_pool_state", "core.cloud.store.sqlite_endpoint_state"})}
"""Two halves of one thing, of which one names the other in its annotations."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Deferred imports included."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False, cache_dir=None)


def circles(nodes: Iterable[str], imported: Callable[[str], Iterable[str]]) -> list[frozenset[str]]:
    """Sets of nodes that import each other, directly or not (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in imported(node):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            place = stack.index(node)
            component, stack[place:] = frozenset(stack[place:]), []
            if len(component) > 1:
                found.append(component)

    for node in nodes:
        if node not in index:
            visit(node)
    return found


def test_circles_are_found() -> None:
    edges = {"a": "b", "b": "ac", "c": "d", "d": "e", "e": "c", "f": "a"}
    assert set(circles(edges, edges.__getitem__)) == {frozenset("ab"), frozenset("cde")}


def test_no_modules_import_each_other(graph: grimp.ImportGraph) -> None:
    found = circles(sorted(graph.modules), graph.find_modules_directly_imported_by)
    assert set(found) <= TYPES_ONLY


def test_no_neighbours_in_a_package_import_each_other(graph: grimp.ImportGraph) -> None:
    for package in sorted(module for module in graph.modules if graph.find_children(module)):
        inside = f"{package}."
        depth = inside.count(".") + 1
        edges: dict[str, set[str]] = {child: set() for child in graph.find_children(package)}
        for module in graph.modules:
            if module.startswith(inside):
                for other in graph.find_modules_directly_imported_by(module):
                    if other.startswith(inside):
                        edges[".".join(module.split(".")[:depth])].add(".".join(other.split(".")[:depth]))
        found = circles(sorted(edges), lambda node, edges=edges: edges[node] - {node})
        assert set(found) <= TYPES_ONLY, package


def test_no_two_modules_share_a_name() -> None:
    names = Counter(
        file.name for package in PACKAGES for file in (ROOT / package).rglob("*.py") if not file.name.startswith("__")
    )
    assert [name for name, count in names.items() if count > 1] == []
