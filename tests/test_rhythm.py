"How the notebooks read, in numbers: one definition a cell, something to look at after it, no logic written twice."

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import ROOT
from test_architecture import EXPORT, MODULES, NBS, cells, code

pytestmark = pytest.mark.quick
LONGEST, STRETCH, NOTEBOOK = 30, 80, 300  # lines of a function, exported lines without evidence, and in a notebook
LARGE = {"07_losses"}  # fourteen losses that are read side by side
Function = ast.FunctionDef | ast.AsyncFunctionDef
TWICE = 40  # nodes of the syntax tree: what is smaller may look alike by chance


@dataclass
class Rhythm:
    "What is counted in one notebook."

    exported: int = 0  # lines that are exported, blank ones apart
    definitions: int = 0  # exported cells with a definition
    single: int = 0  # of those: with exactly one
    shown: int = 0  # of those: with a cell that is not exported among the next two
    stretch: int = 0  # the most exported lines in a row
    longest: list[str] = field(default_factory=list)  # functions of more than LONGEST lines


def is_code(cell: dict) -> bool:
    "Not prose."
    return cell["cell_type"] == "code"


def lines(source: str) -> int:
    "Lines that say something."
    return sum(bool(line.strip()) and not line.startswith("#|") for line in source.splitlines())


def rhythm(path: Path) -> Rhythm:
    "Count one notebook."
    found, count, stretch = cells(path), Rhythm(), 0
    exported = [is_code(cell) and bool(EXPORT.search(cell["source"])) for cell in found]
    for place, cell in enumerate(found):
        if not exported[place]:
            stretch = 0 if is_code(cell) else stretch
            continue
        count.exported += lines(cell["source"])
        stretch += lines(cell["source"])
        count.stretch = max(count.stretch, stretch)
        tree = code(cell["source"])
        defined = sum(isinstance(node, Function | ast.ClassDef) for node in tree.body)
        if defined:
            after = range(place + 1, min(place + 3, len(found)))
            count.definitions += 1
            count.single += defined == 1
            count.shown += any(is_code(found[next_]) and not exported[next_] for next_ in after)
        for node in ast.walk(tree):
            if isinstance(node, Function) and node.end_lineno - node.lineno >= LONGEST:
                count.longest.append(f"{path.stem}: {node.name} ({node.end_lineno - node.lineno + 1} lines)")
    return count


COUNTS = {path.stem: rhythm(path) for path in NBS}


def share(name: str) -> float:
    "Of all definition cells: the share that is `single` or `shown`."
    return sum(getattr(count, name) for count in COUNTS.values()) / sum(count.definitions for count in COUNTS.values())


@pytest.mark.parametrize("name, what", [("single", "hold one definition"), ("shown", "are followed by evidence")])
def test_definition_cells(name: str, what: str) -> None:
    behind = {
        stem: f"{getattr(count, name)} of {count.definitions}"
        for stem, count in COUNTS.items()
        if getattr(count, name) < 0.85 * count.definitions
    }
    assert share(name) >= 0.85, f"{share(name):.0%} of the definition cells {what}, not 85 %; behind: {behind}"


@pytest.mark.parametrize("stem", COUNTS)
def test_a_notebook_is_one_idea(stem: str) -> None:
    count = COUNTS[stem]
    assert count.stretch <= STRETCH, f"{stem} exports {count.stretch} lines with nothing to look at between them"
    assert count.exported <= NOTEBOOK or stem in LARGE, f"{stem} exports {count.exported} lines: two ideas? Split it"


def test_functions_are_short() -> None:
    found = [name for count in COUNTS.values() for name in count.longest]
    assert len(found) <= 5, f"{len(found)} functions of more than {LONGEST} lines: {', '.join(found)}"


# --- the same logic twice ----------------------------------------------------------------------------------------


def normal(body: list[ast.stmt]) -> str:
    "Statements whose own names are numbered, so that renaming hides nothing."
    own = {
        node.arg if isinstance(node, ast.arg) else node.id
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.arg) or isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    numbers: dict[str, str] = {}
    text = "\n".join(ast.unparse(statement) for statement in body)
    return re.sub(
        r"(?<![.\w'\"])[A-Za-z_]\w*",
        lambda word: numbers.setdefault(word[0], f"_{len(numbers)}") if word[0] in own else word[0],
        text,
    )


def bodies(path: Path) -> Iterator[tuple[str, str]]:
    "Every function of a module with its normal form, docstring apart; its parameters count as its own names."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if sum(1 for statement in body for _ in ast.walk(statement)) >= TWICE:
                named = [ast.parse(f"{arg.arg} = 0").body[0] for arg in ast.walk(node.args) if isinstance(arg, ast.arg)]
                yield node.name, normal(named + body)
            for place in range(len(body) - 3):  # four statements in a row are logic too
                part = body[place : place + 4]
                if sum(1 for statement in part for _ in ast.walk(statement)) >= 1.5 * TWICE:
                    yield f"{node.name}, line {part[0].lineno}", normal(part)


def test_no_logic_is_written_twice() -> None:
    places: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for module in MODULES:
        for name, text in bodies(ROOT / "disti" / f"{module}.py"):
            places[text].add((module, name))
    twice = [found for found in places.values() if len({module for module, _ in found}) > 1]
    said = "; ".join(" = ".join(f"disti.{module}: {name}" for module, name in sorted(found)) for found in twice)
    assert not twice, f"written in two notebooks: {said}"


def test_the_check_sees_a_renamed_copy(tmp_path: Path) -> None:
    one = "def best(rows):\n    kept = [row for row in rows if row['score'] > 0.5 and row['rank'] < 10]\n" + (
        "    total = sum(row['score'] for row in kept)\n    return {row['_id']: row['score'] / total for row in kept}\n"
    )
    other = re.sub(r"\bkept\b", "left", re.sub(r"\bbest\b", "shares", one)).replace(":\n", ':\n    "Shares."\n', 1)
    found = []
    for name, source in (("one", one), ("other", other)):
        (tmp_path / f"{name}.py").write_text(source)
        found.append({text for _, text in bodies(tmp_path / f"{name}.py")})
    assert found[0] == found[1] != set()
