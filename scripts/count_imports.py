"""Count the imports between the rooms of each package: ``python scripts/count_imports.py [ROOT]``.

A room is a file or folder at a package's top level. An import counts once for a pair of rooms,
wherever in a file it stands: those inside functions and under ``TYPE_CHECKING`` too.
``tests/test_law.py`` reads the same edges and holds them to the order of the rooms. ``ROOT`` may be
a checkout from before agents and benchmarks were subpackages of ``search_env``.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("search_env", "agents", "benchmarks")
"""From the ground up: a package imports itself and those before it."""
FACE = "__init__"
"""The room of a package's own ``__init__``."""


class Room(NamedTuple):
    """A file or folder at the top level of a package."""

    package: str
    name: str


class Edge(NamedTuple):
    """A module that imports another one."""

    importer: str
    imported: str


def modules(root: Path) -> dict[str, Path]:
    """Return the files of all packages by module name, subpackages without their prefix."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):  # follows no links
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == FACE else parts)] = path
    return found


def room_of(module: str) -> Room:
    """Return where a module stands.

    Example:
        >>> room_of("agents.learning.packing")
        Room(package='agents', name='learning')
    """
    package, _, rest = module.partition(".")
    return Room(package, rest.split(".")[0] or FACE)


def edges(root: Path) -> set[Edge]:
    """Return every import of one of the packages' modules by another, lazy ones included."""
    known = modules(root)
    return {
        Edge(importer, target)
        for importer, path in known.items()
        for target in _imports(path, known)
        if target in known and target != importer
    }


def room_pairs(all_edges: set[Edge]) -> set[tuple[Room, Room]]:
    """Return the pairs of different rooms of one package of which the first imports the second."""
    pairs = {(room_of(edge.importer), room_of(edge.imported)) for edge in all_edges}
    return {(a, b) for a, b in pairs if a != b and a.package == b.package}


def _imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            source = _without_prefix(node.module)
            for alias in node.names:
                module = f"{source}.{alias.name}"
                yield module if module in known else source
        elif isinstance(node, ast.Import):
            yield from (_without_prefix(alias.name) for alias in node.names)


def _without_prefix(module: str) -> str:
    for package in PACKAGES[1:]:
        if f"{module}.".startswith(f"search_env.{package}."):
            return module.removeprefix("search_env.")
    return module


def main() -> None:
    """Print the counts, and with ``--pairs`` the pairs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--pairs", action="store_true", help="list them too")
    args = parser.parse_args()
    pairs = sorted(room_pairs(edges(args.root)))
    for package in PACKAGES:
        own = [pair for pair in pairs if pair[0].package == package]
        print(f"{package}: {len(own)} pairs of rooms")
        if args.pairs:
            print("".join(f"  {a.name} -> {b.name}\n" for a, b in own), end="")


if __name__ == "__main__":
    main()
