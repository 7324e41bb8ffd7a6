"""The house: rooms in their order, each uses only what stands above it in the list; no circle anywhere.

`python tests/docs/test_architecture.py` writes the table and the picture in docs/architecture.md anew.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vecaf_hf"
PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "house.svg"
# From the ground up.
ROOMS = [
    *("cost", "seeding", "printable", "validation", "agreement"),
    *("selection", "arguments", "data", "text", "scoring", "learners", "augmentation", "conditions", "loop"),
    *("checkpoint", "reporting", "hub", "inspection", "trainer", "cli"),
]
BEGIN, END = "<!-- rooms -->", "<!-- /rooms -->"


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all modules of the package but its own `__init__`, which only names what others hold."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "vecaf_hf":
            found[name] = path
    return found


def imports() -> dict[str, set[str]]:
    """Module -> the package's modules that it imports, at its top, in a function or for its types."""
    known = modules()
    used = {}
    for name, path in known.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                # Where modules are imported from a package, its `__init__` is not what is used.
                found |= named if named <= known.keys() else named | {node.module}
        used[name] = {other for other in found if other in known} - {name}
    return used


def room(module: str) -> str:
    return module.split(".")[1]


def between_rooms() -> dict[str, set[str]]:
    """Room -> the other rooms that it uses."""
    used: defaultdict[str, set[str]] = defaultdict(set)
    for module, others in imports().items():
        used[room(module)] |= {room(other) for other in others} - {room(module)}
    return dict(used)


def lines() -> dict[str, int]:
    counted: defaultdict[str, int] = defaultdict(int)
    for module, path in modules().items():
        counted[room(module)] += len(path.read_text().splitlines())
    return dict(counted)


def table() -> str:
    """Of the page."""
    used, counted = between_rooms(), lines()
    rows = ["| room | lines | uses |", "| --- | --- | --- |"]
    for name in ROOMS:
        others = ", ".join(f"`{other}`" for other in ROOMS if other in used[name])
        # To the nearest 50: not every line that is written changes the page.
        rows.append(f"| `{name}` | {max(50, 50 * round(counted[name] / 50)):,} | {others} |")
    return "\n".join(rows)


# --- What holds ---


def test_every_module_is_in_a_room_and_few_are_at_the_top() -> None:
    assert {room(module) for module in modules()} == set(ROOMS)
    # With `__init__.py`.
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_a_room_uses_only_rooms_that_stand_above_it_in_the_list() -> None:
    upwards = {
        f"{module} -> {other}"
        for module, others in imports().items()
        for other in others
        if ROOMS.index(room(other)) > ROOMS.index(room(module))
    }
    assert not upwards


def test_no_file_is_in_a_circle() -> None:
    # A package stands for its `__init__`, which may import its own modules: these do not import it.
    TopologicalSorter(imports()).prepare()


def test_nothing_is_imported_for_its_types_alone() -> None:
    """There a circle could hide."""
    typed = re.compile(r"^if TYPE_CHECKING:\n(    .*\n)*?    from vecaf_hf", re.M)
    hidden = [name for name, path in modules().items() if typed.search(path.read_text())]
    assert hidden == []


def test_the_page_shows_the_house_as_it_is() -> None:
    page = PAGE.read_text()
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == table(), f"run python {Path(__file__).name}"
    described = re.findall(r"^\*\*`(\w+)`\*\*", page, re.M)
    assert set(described) == set(ROOMS)


# --- The page ---


def draw() -> None:
    """The house as a picture: the ground at the bottom, an arrow from each room to those it stands on."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "house"
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    used, counted = between_rooms(), lines()
    floors: dict[str, int] = {}
    for name in ROOMS:
        floors[name] = 1 + max((floors[other] for other in used[name]), default=-1)
    by_floor: defaultdict[int, list[str]] = defaultdict(list)
    for name in ROOMS:
        by_floor[floors[name]].append(name)
    places = {
        name: ((number + 0.5) * 12 / len(names), 1.3 * floor)
        for floor, names in by_floor.items()
        for number, name in enumerate(names)
    }
    # Only arrows that no longer way says anyway.
    reached: dict[str, set[str]] = {}
    for name in ROOMS:
        reached[name] = set().union(*(reached[other] | {other} for other in used[name])) if used[name] else set()
    figure = Figure(figsize=(9, 0.95 * (1 + len(by_floor))), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in places.items():
        for other in used[name]:
            if any(other in reached[between] for between in used[name] - {other}):
                continue
            end = places[other]
            axes.annotate(
                "",
                (end[0], end[1] + 0.32),
                (x, y - 0.32),
                arrowprops={"arrowstyle": "->", "color": "#999999", "shrinkA": 0, "shrinkB": 0},
                zorder=1,
            )
        # The larger, the wider.
        width = 1.5 + 0.0004 * counted[name]
        box = FancyBboxPatch(
            (x - width / 2, y - 0.3),
            width,
            0.6,
            boxstyle="round,pad=0.02",
            facecolor="#e8f1f8",
            edgecolor="#0072B2",
            zorder=2,
        )
        axes.add_patch(box)
        axes.text(x, y, f"{name}\n{counted[name]:,}", ha="center", va="center", fontsize=9, zorder=3)
    axes.set(xlim=(0, 12), ylim=(-0.6, 1.3 * len(by_floor) - 0.6))
    axes.set_axis_off()
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")
    draw()


if __name__ == "__main__":
    main()
