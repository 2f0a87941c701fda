"What pages tell a person to type exists: commands, stages, parameters, settings of recipes, scripts and their options."

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, call
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


def test_what_a_run_showed_goes_into_its_stages(tmp_path: Path) -> None:
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    def book(path: Path, *showed: list, code: str = "print(table)") -> None:
        cells = [new_markdown_cell("## Run"), new_code_cell("n = 1", metadata={"tags": ["parameters"]})]
        cells += [new_code_cell(code, outputs=showed[0] if showed else [])]
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new_notebook(cells=cells), path)

    run = tmp_path / "demo"
    printed = [
        new_output("stream", name=name, text=said) for name, said in (("stdout", "3 lists\n"), ("stderr", "5%|"))
    ]
    book(tmp_path / "nbs" / "14_distill.ipynb")
    book(run / "notebooks" / "14_distill-kl.ipynb", printed)
    book(run / "notebooks" / "14_distill-all.ipynb", [])
    words = (sys.executable, "docs/outputs.py", run, "--nbs", tmp_path / "nbs")
    (run / "recipe.yaml").write_text("scale: smoke\nstudents: {kl: {}}\nseed: 3\n")
    assert "whose numbers mean nothing" in call(*words).stdout
    (run / "recipe.yaml").write_text("scale: ''\nstudents: {kl: {}, all: {}}\nseed: 3\n")
    assert "14_distill: of 14_distill-kl" in call(*words).stdout
    cells = nbformat.read(tmp_path / "nbs" / "14_distill.ipynb", 4).cells
    assert [output["text"] for output in cells[2].outputs] == ["3 lists\n"], "without progress bars"
    assert "job `14_distill-kl` of run `demo` showed (seed 3" in cells[0].source
    book(tmp_path / "nbs" / "14_distill.ipynb", printed, code="print(other)")
    assert "changed since, shows nothing: print(other)" in call(*words).stdout
    assert not nbformat.read(tmp_path / "nbs" / "14_distill.ipynb", 4).cells[2].outputs
