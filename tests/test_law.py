"""The law of the house: a room imports only rooms of lower floors, lazy imports included."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from scripts.count_imports import FACE, PACKAGES, edges, modules, room_of, room_pairs
from search_env.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
EDGES = edges(ROOT)

LAW = {
    "search_env": (
        "errors redaction",
        "types",
        "interrupts paths provenance validation",
        "hub registry typed_values",
        "metrics protocols tokens retrieval datasets",
        "rewards rendering",
        "core worlds",
        "envs",
        "recording",
        "evaluation wrappers",
        "viewer testing",
        "cli",
        "__main__",
        FACE,
    ),
    "agents": (
        "types errors algorithms baselines",
        "model_files",
        "models inference reporting",
        "learning rollouts",
        "training imitation bridges",
        "doctor",
        "cli examples",
        FACE,
    ),
    "benchmarks": (
        "harness",
        "players question_sets",
        "run reports",
        "suite",
        "cli speed",
        "studies",
        FACE,
    ),
}
"""The rooms of each package from the ground up; those of one floor do not know each other."""

FLOOR = {
    (package, room): number
    for package, floors in LAW.items()
    for number, rooms in enumerate(floors)
    for room in rooms.split()
}


def test_every_room_has_a_floor_and_no_floor_is_empty():
    assert {room_of(name) for name in modules(ROOT)} == FLOOR.keys()


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_lower_floors_only(package):
    wrong = [
        f"{a.name} imports {b.name}"
        for a, b in sorted(room_pairs(EDGES))
        if a.package == package and FLOOR[a] <= FLOOR[b]
    ]
    assert not wrong


def test_packages_import_lower_packages_only():
    wrong = [
        edge
        for edge in EDGES
        if PACKAGES.index(room_of(edge.importer).package)
        < PACKAGES.index(room_of(edge.imported).package)
    ]
    # Scripted agents play where the command line evaluates and the kit diagnoses environments.
    assert {room_of(edge.importer) for edge in wrong} <= {("search_env", "cli")}


def test_the_table_of_commands_names_modules():
    assert {module.removeprefix("search_env.") for module, _ in COMMANDS.values()} <= {
        name.removeprefix("search_env.") for name in modules(ROOT)
    }


def test_no_module_imports_itself_by_way_of_others():
    graph: dict[str, set[str]] = {}
    for edge in EDGES:
        graph.setdefault(edge.importer, set()).add(edge.imported)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
