"""Draw the structure of the package from its imports: `python -m tests.structure`.

Prints the files and lines of each room, the rooms that it imports, and the levels: a room stands one level
above the highest room that it imports. A room is a top-level module, a folder, or a module of `_util`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "pika_balancer"


def modules() -> Iterator[tuple[str, Path]]:
    """Yield each module of the package with its room."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[: 2 if parts[0] == "_util" else 1]), path


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Yield the dotted names that a module imports.

    Args:
        path: The module's file.
        lazy: Whether to include imports inside functions and under `if TYPE_CHECKING`.
    """
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides an arrow"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name: str) -> str | None:
    """Return the room that an import names; None for another package."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return None
    return next((room for room in (".".join(parts[1:3]), *parts[1:2]) if room in ROOMS), "__init__")


ROOMS = {room for room, _ in modules()}


def arrows() -> dict[str, set[str]]:
    """Return for each room the other rooms that it imports."""
    found: dict[str, set[str]] = {name: set() for name in ROOMS}
    for name, path in modules():
        found[name] |= {target for target in map(own, imports(path)) if target is not None} - {name}
    return found


def levels(found: dict[str, set[str]]) -> dict[str, int]:
    """Return the level of each room: 0 if it imports nothing.

    Raises:
        ValueError: Some of them import each other in a circle.
    """
    level: dict[str, int] = {}
    while len(level) < len(found):
        ready = [name for name, targets in found.items() if name not in level and targets <= level.keys()]
        if not ready:
            raise ValueError(f"a circle of imports among {sorted(found.keys() - level.keys())}")
        level |= {name: max((level[t] + 1 for t in found[name]), default=0) for name in ready}
    return level


def main() -> None:
    """Print the table and the levels."""
    found = arrows()
    for name in sorted(found):
        files = [path for folder, path in modules() if folder == name]
        lines = sum(len(path.read_text().splitlines()) for path in files)
        print(f"{name:14} {len(files):3} files {lines:6} lines  → {' '.join(sorted(found[name])) or '-'}")
    inner = {name: targets - {"__init__"} for name, targets in found.items() if name != "__init__"}
    level = levels(inner)
    for number in range(max(level.values()) + 1):
        print(f"level {number}: {', '.join(sorted(name for name in level if level[name] == number))}")
    print(f"{sum(map(len, found.values()))} arrows between rooms")


if __name__ == "__main__":
    main()
