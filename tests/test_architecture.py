"The rules of the house, read from the files: the seam, the layers, the generated files, style and types."

import ast
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import BIN, ROOT, call

pytestmark = pytest.mark.quick
NBS = sorted((ROOT / "nbs").glob("[0-9][0-9]*.ipynb"))
STAGES = [path for path in NBS if int(path.name[:2]) >= 10]
EXPORT = re.compile(r"^\s*#\|\s*exports?i?\s*$", re.M)
SEAM_STATEMENTS = 45  # "about 40", imports apart: the run half reads like a recipe, or its work belongs above the seam


def cells(path: Path) -> list[dict]:
    "The cells of a notebook, each source as one string."
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def code(source: str) -> ast.Module:
    "A cell's code; magics and shell lines left out."
    return ast.parse(re.sub(r"^[ \t]*[%!].*$", "", source, flags=re.M))


def module_of(path: Path) -> str:
    "The module that a notebook exports to, or ''."
    found = [re.search(r"^#\|\s*default_exp\s+(\S+)", cell["source"], re.M) for cell in cells(path)]
    return next((match.group(1) for match in found if match), "")


MODULES = {name: path for path in NBS if (name := module_of(path))}  # module → notebook, in the order of the numbers
ORDER = {name: place for place, name in enumerate(MODULES)}


def imported(tree: ast.AST) -> set[str]:
    "The modules of disti that some code imports."
    found = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and (node.level == 1 or node.module.split(".")[0] == "disti")
        ):
            name = node.module if node.level else node.module.partition(".")[2]
            found |= {name.split(".")[0]} if name else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("disti.")}
    return found & ORDER.keys()


def halves(path: Path) -> tuple[list[dict], list[dict]]:
    "The cells above and below a stage's seam."
    found = cells(path)
    seams = [
        place
        for place, cell in enumerate(found)
        if cell["cell_type"] == "markdown" and re.match(r"## Run\s*$", cell["source"].split("\n")[0])
    ]
    assert len(seams) == 1, f"{path.name} has {len(seams)} headings '## Run'; a stage has exactly one seam"
    return found[: seams[0]], found[seams[0] :]


def name_of(path: Path) -> str:
    "A test's name."
    return path.stem


@pytest.mark.parametrize("path", STAGES, ids=name_of)
def test_seam(path: Path) -> None:
    above, below = halves(path)
    run = [cell for cell in below if cell["cell_type"] == "code"]
    for cell in run:
        assert not EXPORT.search(cell["source"]), f"{path.name} exports below the seam:\n{cell['source']}"
        for node in ast.walk(code(cell["source"])):
            assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)), (
                f"{path.name} defines {node.name!r} below the seam; move it above and export it"
            )
            if isinstance(node, (ast.For, ast.While)):
                assert node.end_lineno - node.lineno < 3, (
                    f"{path.name}, a loop longer than 3 lines below the seam:\n{cell['source']}"
                )
    tagged = [cell for cell in above + below if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1 and tagged[0] in below, (
        f"{path.name}: one cell tagged 'parameters', below the seam; found {len(tagged)}"
    )
    said = [
        node
        for cell in run
        if cell is not tagged[0]
        for node in ast.walk(code(cell["source"]))
        if isinstance(node, ast.stmt) and not isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert len(said) <= SEAM_STATEMENTS, f"{path.name} has {len(said)} statements below the seam"
    assert "## In batch" in "\n".join(cell["source"] for cell in below), f"{path.name} lacks its section '## In batch'"


@pytest.mark.parametrize("path", STAGES, ids=name_of)
def test_parameters_are_plain(path: Path) -> None:
    cell = next(cell for cell in halves(path)[1] if "parameters" in cell["metadata"].get("tags", []))
    lines, names = cell["source"].splitlines(), []
    for node in code(cell["source"]).body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        assert isinstance(target, ast.Name), f"{path.name}: a parameter is NAME = LITERAL, not {ast.unparse(node)}"
        ast.literal_eval(node.value)
        assert node.lineno == node.end_lineno and "#" in lines[node.lineno - 1][node.end_col_offset :], (
            f"{path.name}: {target.id} needs one line with a comment (unit, meaning)"
        )
        names.append(target.id)
    assert {"run", "artifacts", "seed"} <= set(names), (
        f"{path.name}: every stage takes run, artifacts and seed; it has {names}"
    )
    assert len(names) == len(set(names)), f"{path.name}: a parameter is set twice in {names}"


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name: str) -> None:
    exported = [
        cell["source"] for cell in cells(MODULES[name]) if cell["cell_type"] == "code" and EXPORT.search(cell["source"])
    ]
    for other in set().union(*(imported(code(source)) for source in exported)):
        assert ORDER[other] < ORDER[name], (
            f"{MODULES[name].name} imports disti.{other}, of {MODULES[other].name}: a layer above"
        )


LAZY = {
    "run",
    "scorers",
    "warm",
}  # libraries loaded ahead; tables of commands and of scorers name `module:function`, imported when asked for


@pytest.mark.parametrize("name", MODULES)
def test_imports_are_plain(name: str) -> None:
    "No import by a text, which would get round the rule above."
    for node in ast.walk(ast.parse((ROOT / "disti" / f"{name}.py").read_text(encoding="utf-8"))):
        called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if called in ("import_module", "__import__"):
            target = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            assert target == f"disti.{name}" or name in LAZY and not target, (
                f"disti.{name} imports by a text, line {node.lineno}: {ast.unparse(node)}"
            )


def test_no_circles() -> None:
    package = {name: ast.parse((ROOT / "disti" / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES}
    list(TopologicalSorter({name: imported(tree) - {name} for name, tree in package.items()}).static_order())


def test_every_notebook_has_a_number_of_its_own() -> None:
    numbers = Counter(path.stem.partition("_")[0] for path in NBS)
    twice = [path.name for path in NBS if numbers[path.stem.partition("_")[0]] > 1]
    assert not twice, f"two notebooks share a number: {', '.join(twice)}"
    odd = [number for number in numbers if not re.fullmatch(r"\d\d[a-z]?", number)]
    assert not odd, f"a number is two digits and perhaps a letter, not {', '.join(odd)}"


@pytest.mark.parametrize("path", STAGES, ids=name_of)
def test_stages_meet_through_files(path: Path) -> None:
    stages = {name for name, notebook in MODULES.items() if notebook in STAGES}
    for cell in cells(path):
        if cell["cell_type"] == "code":
            others = imported(code(cell["source"])) & stages - {module_of(path)}
            assert not others, f"{path.name} imports another stage: {', '.join(others)}"


def test_import_is_light() -> None:
    heavy = "{'torch', 'transformers', 'nbdev', 'fastcore', 'execnb', 'numpy', 'pandas'}"
    done = call(sys.executable, "-c", f"import disti, sys; print(sorted({heavy} & set(sys.modules)))")
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout


@pytest.mark.parametrize("name", MODULES)
def test_package_does_not_need_its_development_tools(name: str) -> None:
    tree = ast.parse((ROOT / "disti" / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {each.split(".")[0] for each in names} & {"nbdev", "fastcore", "execnb", "pytest", "ghapi"}


def test_command_line_starts_light() -> None:
    done = call(sys.executable, "-c", "import disti.run, sys; print(sorted({'torch', 'nbdev'} & set(sys.modules)))")
    assert done.returncode == 0 and done.stdout.strip() == "[]", (
        "the `disti` command must answer at once: " + done.stdout
    )


def tree(folder: Path) -> dict[str, bytes]:
    "Every file of a folder with its bytes."
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and ".ipynb_checkpoints" not in path.parts
    }


def test_generated_files_are_up_to_date(tmp_path: Path) -> None:
    for name in ("nbs", "disti"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    for name in ("settings.ini", "setup.py", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    before = tree(tmp_path)
    for words in (["nbdev_export"], ["nbdev_clean"], ["ruff", "format", "--quiet", "nbs", "disti"]):
        done = call(BIN / words[0], *words[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stdout
    after = tree(tmp_path)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    changed = [name for name in changed if ".ruff_cache" not in name]
    assert not changed, f"export, clean and format change {', '.join(changed)}; run: make export"


def test_readme_is_made_from_the_start_notebook() -> None:
    done = call(sys.executable, "docs/readme.py", "--check")
    assert done.returncode == 0, done.stdout


def test_readme_names_every_notebook_and_every_folder() -> None:
    words = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [path.stem for path in NBS if f"(nbs/{path.name})" not in words]
    assert not missing, f"README.md lacks {', '.join(missing)}; docs/readme.py writes its tables from their titles"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True).stdout.split()
    folders = {name.split("/")[0] for name in listed if "/" in name and not name.startswith(".")}
    unnamed = sorted(folder for folder in folders if f"{folder}/" not in words)
    assert not unnamed, f"the tree in nbs/index.ipynb lacks {', '.join(unnamed)}"


def prose_of(path: Path) -> str:
    "The markdown of a page or notebook, code blocks apart."
    if path.suffix == ".ipynb":
        words = "\n\n".join(cell["source"] for cell in cells(path) if cell["cell_type"] == "markdown")
    else:
        words = path.read_text(encoding="utf-8")
    return re.sub(r"```.*?```", "", words, flags=re.S)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/*.md", "nbs/*.ipynb"])
def test_links_lead_somewhere(page: str) -> None:
    dead = [
        f"{path.name} → {target}"
        for path in sorted(ROOT.glob(page))
        if path.name != "results.md"  # stands in nbs/index.ipynb
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", prose_of(path))
        if not (path.parent / target).exists()
    ]
    assert not dead, f"links to what is not there: {', '.join(dead)}"


def test_ruff() -> None:
    done = call(BIN / "ruff", "check", ".")
    assert done.returncode == 0, done.stdout


def test_mypy() -> None:
    done = call(BIN / "mypy")
    assert done.returncode == 0, done.stdout


def test_notebooks_keep_no_trace_of_a_machine() -> None:
    for path in NBS:
        for cell in cells(path):
            words = json.dumps(cell.get("outputs", []))
            found = re.search(r"/(?:home|root|work|tmp|Users)/[\w./-]+", words)
            assert not found, f"{path.name} shows a path of one machine in its output: {found.group(0)}"


def test_constraints_pin_every_requirement() -> None:
    from configparser import ConfigParser

    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line for line in lines if not line.startswith("#")}
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in pinned.values()), (
        "constraints are NAME==VERSION, no paths or tags"
    )
    needs = " ".join(
        ini["DEFAULT"][key] for key in ("requirements", "dev_requirements", "demo_requirements", "docs_requirements")
    )
    missing = [
        need for need in needs.split() if re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~]", need)[0]).lower() not in pinned
    ]
    assert not missing, f"constraints.txt lacks {', '.join(missing)}"
