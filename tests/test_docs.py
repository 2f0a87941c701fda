"What pages tell a person to type exists: commands, stages, parameters, settings of recipes, scripts and their options."

import re
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_architecture import NBS, cells

from disti.recipe import read_recipe, resolve_recipe
from disti.run import COMMANDS
from disti.stage import check_params

pytestmark = pytest.mark.quick
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *NBS]
OPEN = re.compile(r"\b[A-Z]{3,}\b|\.\.\.|…|<\w+>")  # NAME, ..., <name>: a person puts something there


def commands(path: Path) -> list[str]:
    "Lines in blocks and in backticks that call disti or a script of the house."
    prose = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        prose = "\n\n".join(cell["source"] for cell in cells(path) if cell["cell_type"] == "markdown")
    blocks = "\n".join(re.findall(r"```[^\n]*\n(.*?)```", prose, re.S)).replace("\\\n", " ").splitlines()
    found = blocks + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", prose, flags=re.S))
    found = [re.sub(r"\s+#.*|\s{3,}\S.*", "", line.strip()) for line in found]
    return [line for line in found if re.match(r"(\S*/)?disti |(\S*/)?python3? (-m disti|bench/)", line)]


def check_run(words: list[str]) -> None:
    "`disti run STAGE -p NAME VALUE`, and `disti params STAGE`."
    values, place = {}, 1
    while place < len(words):
        if words[place] == "-p":
            values[words[place + 1]] = words[place + 2]
            place += 2
        place += 1
    given = {key: value for key, value in values.items() if not OPEN.search(value)}
    check_params(words[0], {key: yaml.safe_load(value) if value else "" for key, value in given.items()})


def check_recipe(words: list[str]) -> None:
    "`disti pipeline RECIPE --set key=value --sweep student.key=value,value`."
    if OPEN.search(words[0]) or "RECIPE" in words[0]:
        return
    at = words.index("--sweep") if "--sweep" in words else len(words)
    pairs = [word.split("=", 1) for word in words[1:at] if re.match(r"[\w.]+=", word)]
    sets = {key: yaml.safe_load(value) for key, value in pairs if not OPEN.search(value)}
    resolve_recipe(read_recipe(words[0]), sets=sets, sweep=words[at + 1 :])


def check_command(line: str) -> None:
    "Raise where a command names what is not there."
    words = shlex.split(line)
    script = next((word for word in words if word.startswith("bench/")), "")
    if script:
        source = (ROOT / script).read_text(encoding="utf-8") + (ROOT / "bench" / "students.py").read_text(
            encoding="utf-8"
        )
        for word in words:
            assert not word.startswith("--") or f'"{word}"' in source, f"{script} has no option {word}"
        return
    words = words[3:] if words[1:2] == ["-m"] else words[1:]
    assert words[0] in COMMANDS or OPEN.search(words[0]), f"there is no command {words[0]!r}"
    if len(words) == 1:
        return
    if words[0] in ("run", "params") and not OPEN.search(words[1]):
        check_run(words[1:])
    elif words[0] in ("pipeline", "check"):
        check_recipe(words[1:])


@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_commands_exist(path: Path) -> None:
    wrong = []
    for line in commands(path):
        try:
            check_command(line)
        except Exception as error:  # whatever a person would meet
            wrong.append(f"{line}\n    {type(error).__name__}: {str(error)[:200]}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_check_sees_a_wrong_word() -> None:
    check_command("disti run distill -p run handbook -p steps 300")
    with pytest.raises(ValueError, match="parameter of 14_distill"):
        check_command("disti run distill -p stebs 300")
    with pytest.raises(AssertionError, match="no command"):
        check_command("disti trian demo")
