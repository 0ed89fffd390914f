"""The house stays as low as it is: no circle, and no chain of imports longer than it has to be."""

from __future__ import annotations

from tests.imports import circles, floors, imports, longest_chain

FLOORS = 23  # the viewer stands on comparisons, and they on reports; lower it when a chain gets shorter


def test_no_module_imports_itself_by_way_of_others_and_chains_are_short():
    graph = imports()
    assert circles(graph) == []
    assert max(floors(graph).values()) <= FLOORS, " > ".join(longest_chain(graph))


def test_a_floor_is_the_longest_chain_and_a_circle_shares_one():
    graph = {"top": {"a", "low"}, "a": {"b"}, "b": {"a", "low"}, "low": set()}
    assert circles(graph) == [["a", "b"]]
    assert floors(graph) == {"top": 3, "a": 2, "b": 2, "low": 1}
