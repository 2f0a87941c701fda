"What goes wrong: kill -9, changed parameters, bad words and bad files, a package without its checkout."

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest
from conftest import BIN, ROOT, call
from kill import kill_at, start

from disti.run import main

GOOD = {
    "eval/shop/corpus": b'{"_id": "d1", "text": "green tea"}\n{"_id": "d2", "text": "black tea"}\n',
    "eval/shop/queries": b'{"_id": "q1", "text": "something to drink"}\n',
    "eval/shop/relevance": b'{"query-id": "q1", "corpus-id": "d1", "score": 1}\n',
    "finetune/shop": b'{"anchor": "hot drink", "positive": "coffee"}\n{"anchor": "cold one", "positive": "juice"}\n',
}


# --- kill -9 -----------------------------------------------------------------------------------------------------


def test_killed_run_gives_the_same_numbers(smoke: Path) -> None:
    "One run, killed while it mines, scores, trains and evaluates; once only the command itself is killed."
    home, sets = ROOT / "artifacts" / "killed", ("scale=smoke", "students=distilled", "distilled.checkpoint_steps=3")
    shutil.rmtree(home, ignore_errors=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    for stage in ("mine", "score", "train", "evaluate"):
        kill_at(stage, "recipes/demo.yaml", "killed", *sets, whole=stage != "score", **quiet)
        assert not (home / "results" / "comparison.json").exists()
    assert start("recipes/demo.yaml", "run=killed", *sets, **quiet).wait(timeout=900) == 0
    for model in ("bm25", "untrained", "teacher", "distilled"):
        one, two = (path / "results" / model / "demo" / "measures.jsonl" for path in (home, smoke))
        assert one.read_bytes() == two.read_bytes(), f"{model}: other numbers after a kill"
    one, two = (json.loads((path / "results" / "comparison.json").read_text()) for path in (home, smoke))
    names = {row["model"] for row in one["rows"]}
    assert one["rows"] == [row for row in two["rows"] if row["model"] in names]
    for file in (one, two):  # Holm's correction, and the level that is tested, count the tests of their run
        own = {"p_holm": None, "minimum_effect": None}
        file["tests"] = [test | own for test in file["tests"] if {test["a"], test["b"]} <= names]
    assert one["tests"] == two["tests"] != []
    assert not list(home.rglob("*.tmp*")), "what killed stages left behind is cleared by the next start"
    shutil.rmtree(home)


# --- what runs again ---------------------------------------------------------------------------------------------


def plan(*sets: str) -> list[str]:
    "The jobs that the smoke run would run now."
    done = call(sys.executable, "-m", "disti", "pipeline", "demo", "--dry-run", "--set", "scale=smoke", *sets)
    assert done.returncode == 0, done.stdout
    return sorted(
        " ".join(line.split()[2:4] if line.split()[2] in ("teach", "evaluate", "student_score") else line.split()[2:3])
        for line in done.stdout.splitlines()
        if line.startswith("would run")
    )


def test_only_what_depends_on_a_change_runs_again(smoke: Path) -> None:
    assert plan() == []
    assert plan("lora.steps=9") == ["compare", "evaluate lora", "student_lora"]
    assert plan("cases.n_cases=9") == ["cases", "compare"]
    assert plan("compare.seed=1") == ["compare"]
    after_score = plan("score.with_bm25=false")
    assert {"score", "student_distilled", "evaluate teacher", "gap", "compare"} <= set(after_score)
    assert not {"mine", "teach 0", "student_lora", "student_full"} & set(after_score)
    assert "evaluate bm25" in after_score, "it is read beside the untrained student, and that beside the teacher"
    assert {"mine", "teach 0", "teach 1", "student_lora", "compare"} <= set(plan("mine.depth=14"))


def test_a_student_made_from_another_waits_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "eval" / "elsewhere"
    folder.mkdir(parents=True)
    for kind in ("corpus", "queries", "relevance"):
        (folder / f"{kind}.jsonl").write_text("{}\n")
    students = ("full: {stage: lora, method: full}", "half: {stage: forget, of: full, general: elsewhere}",
                "small: {stage: align, embedding_teacher: half}",
                "more: {stage: absorb, start: full, asked: train written}")  # fmt: skip
    recipe = tmp_path / "r.yaml"
    recipe.write_text("\n  ".join((f"data_dir: {tmp_path}\nartifacts: {tmp_path}\nstudents:", *students)))
    graph = call(BIN / "snakemake", "--rulegraph", "dot", "--configfile", recipe).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", graph)}
    assert {("student_full", "student_half"), ("student_half", "student_small")} <= edges, graph
    assert ("student_full", "student_small") not in edges and ("mine", "student_full") in edges
    assert {("mine", "write"), ("write", "student_more"), ("student_full", "student_more")} <= edges, graph
    assert not {("write", "student_full"), ("write", "mine")} & edges, (
        "queries that nobody asked are for who asks for them"
    )
    (folder / "corpus.jsonl").unlink()
    done = call(sys.executable, "-m", "disti", "pipeline", recipe, "--dry-run", "--set", "run=new")
    assert done.returncode and "student half needs a general collection, and there is no" in done.stdout


def test_a_student_waits_for_its_own_teacher(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    recipe = tmp_path / "r.yaml"
    lines = (f"artifacts: {tmp_path}", f"teachers: {{other: {{teacher: {folder}}}}}", "main: small",
             "stages: {distill: {scores: other}}", "students:",  # whichever part of the recipe says it
             "  kl: {stage: distill}", "  small: {stage: align, embedding_teacher: kl}")  # fmt: skip
    recipe.write_text("\n".join(lines))
    graph = call(BIN / "snakemake", "--rulegraph", "dot", "--configfile", recipe).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", graph)}
    theirs = ("student_kl", "gap", "cases", "evaluate")
    assert {("score_other", rule) for rule in theirs} <= edges, graph
    assert not {("score", "student_kl"), ("score", "gap"), ("score", "cases")} & edges, (
        "the gap is that to the student's own teacher"
    )


def test_touched_but_equal_does_not_run_again(smoke: Path) -> None:
    for path in [*(smoke / "hard-negative").glob("*.jsonl*"), *(ROOT / "data" / "eval" / "demo").iterdir()]:
        path.touch()
    assert plan() == []


def test_one_holder_of_a_run(smoke: Path) -> None:
    import fcntl

    with open(smoke / ".pipeline.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"process {os.getpid()}, since 08:00:00")  # who is plainly alive is not waited for long
        lock.flush()
        done = call(sys.executable, "-m", "disti", "pipeline", "demo", "--set", "scale=smoke")
    assert done.returncode == 1 and "run 'smoke' is in use by" in done.stdout


# --- a run is its recipe -----------------------------------------------------------------------------------------


def test_a_stage_by_hand_takes_its_runs_recipe(smoke: Path) -> None:
    done = call(sys.executable, "-m", "disti", "run", "compare", "-p", "run=smoke", "-p", "n_cases=2")
    assert done.returncode == 0, done.stdout
    assert "values of artifacts/smoke/recipe.yaml, and by hand: n_cases 2" in done.stdout
    params = json.loads((smoke / "results" / "report.html.meta.json").read_text(encoding="utf-8"))["params"]
    assert params["n_cases"] == 2 and params["main"] == "distilled" and "lora" in params["models"]
    told = call(sys.executable, "-m", "disti", "pipeline", "demo", "--dry-run", "--set", "scale=smoke").stdout
    assert "would make again results/report.html: n_cases 2 there, 3 in the recipe" in told
    done = call(sys.executable, "-m", "disti", "pipeline", "demo", "--set", "scale=smoke")
    assert (
        done.returncode == 0
        and "made again: artifacts/smoke/results/report.html was made with other values" in done.stdout
    ), done.stdout
    assert "(job 1 of 1)" in done.stdout and "its numbers mean nothing" in done.stdout


def test_a_folder_belongs_to_one_recipe(smoke: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    line = says(capsys, "pipeline", "demo", "--set", "run=smoke")
    assert "artifacts/smoke belongs to scale 'smoke', and this is 'full'" in line and "--set run=NAME" in line
    line = says(capsys, "run", "mine", "-p", "run=smoke", "-p", "collection=scifact")
    assert "run 'smoke' belongs to recipe 'demo' on collection 'demo'" in line


def test_deleted_results_are_made_again(smoke: Path) -> None:
    page = smoke / "results" / "report.html"
    kept = page.read_bytes()
    page.unlink()
    told = call(sys.executable, "-m", "disti", "pipeline", "demo", "--dry-run", "--set", "scale=smoke").stdout
    page.write_bytes(kept)
    assert "would make again results/report.html: is gone" in told


def test_what_was_found_is_kept(smoke: Path) -> None:
    rows = [json.loads(line) for line in (smoke / "findings.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"check", "11_mine"} <= {row["stage"] for row in rows} and all(row["remedy"] for row in rows)
    log = (smoke / "pipeline.log").read_text(encoding="utf-8")
    assert "11_mine | finding: warn | max_length" in log and re.search(r"\| done in \d+ s \(job \d+ of \d+\)", log)


# --- Ctrl-C ------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_everything_in_seconds(tmp_path: Path) -> None:
    "One Ctrl-C to each process of a pipeline at once, as a terminal sends it."
    import signal
    import time

    import psutil

    home = tmp_path / "stopped"
    words = [
        sys.executable,
        "-m",
        "disti",
        "pipeline",
        "demo",
        "--set",
        "scale=smoke",
        "run=stopped",
        f"artifacts={tmp_path}",
    ]
    heeds = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 - a background job ignores it
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=heeds)
    began = time.time()
    while not list((home / "notebooks").glob(".11_mine.ipynb.*.tmp.ipynb")):
        assert process.poll() is None and time.time() - began < 300
        time.sleep(0.2)
    time.sleep(2)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.send_signal(signal.SIGINT)
    began = time.time()
    gone, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, [member.cmdline() for member in alive]
    assert {member.pid: member.returncode for member in gone}[process.pid] == 130
    assert time.time() - began < 15


# --- bad words ---------------------------------------------------------------------------------------------------


def says(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    "The one line that a failing command writes."
    assert main(list(words)) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("mine", "disti mine: mine is a stage, which is run with: disti run mine"),
        ("zzzz", "disti zzzz: no command 'zzzz'; choose from run, params"),
        ("run minn", "no stage 'minn'; did you mean mine?"),
        ("run mine -p dept 3", "no parameter of 11_mine 'dept'; did you mean depth?"),
        ("run mine -p depth many", "parameter 'depth' of 11_mine must be int (default 10), got str 'many'"),
        ("run mine -p use_given=maybe", "parameter 'use_given' of 11_mine must be bool"),
        ("run mine -p depth", "cannot read 'depth'; write -p name value"),
        ("params nothing", "no stage 'nothing'; choose from synthesize, mine, write, teach"),
        ("pipeline nothing.yaml", "no recipe nothing.yaml; disti comes with bge-m3"),
        ("pipeline demo --set stepz=3", "no parameter or recipe key 'stepz'; did you mean steps"),
        ("pipeline demo --set steps=many", "parameter 'steps' of the recipe must be int"),
        ("pipeline demo --set scale=tiny", "no scale 'tiny'; choose from full, smoke"),
        ("pipeline demo --set students=lor", "no student 'lor'; did you mean lora?"),
        ("pipeline demo --set collection=nowhere", "no collection in data/eval 'nowhere'"),
        ("pipeline demo --set run=../../x", "'run' of the recipe should be a plain folder name"),
        ("pipeline demo --set run={x}", "'run' of the recipe should be a plain folder name"),
        ("pipeline demo --set seed=-1", "'seed' of the recipe should be greater than or equal to 0"),
        ("pipeline demo --set lora.lr=nan", "'lr' of lora should be a finite number"),
        ("pipeline demo --set steps=0", "nothing would be trained"),
        ("pipeline demo --set model=nowhere/at/all run=x", "models: model: no model folder"),
        ("run mine -p seed -1", "'seed' of 11_mine should be greater than or equal to 0"),
    ],
)
def test_bad_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, line: str) -> None:
    monkeypatch.chdir(ROOT)
    assert line in says(capsys, *words.split())


# --- bad files ---------------------------------------------------------------------------------------------------


def shop(folder: Path, **changed: bytes | None) -> Path:
    "A small collection; some of its files changed, or left out."
    for name, content in (GOOD | {key.replace("__", "/"): value for key, value in changed.items()}).items():
        if content is not None:
            path = folder / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"finetune__shop": None}, ["lacks", "finetune/shop.jsonl"]),
        ({"eval__shop__corpus": b""}, ["corpus.jsonl", "holds no rows"]),
        ({"eval__shop__relevance": b'{"query-id": "q1", "corpus-id": "d9", "score": 1}\n'}, ["relevance.jsonl", "d9"]),
        ({"eval__shop__relevance": b'{"query-id": "q9", "corpus-id": "d1", "score": 1}\n'}, ["relevance.jsonl", "q9"]),
        (
            {"eval__shop__corpus": GOOD["eval/shop/corpus"] * 2},
            ["corpus.jsonl, line 3", "duplicate id 'd1', first on line 1"],
        ),
        (
            {"eval__shop__queries": b'{"_id": "q1", "text": 7}\n'},
            ["queries.jsonl, line 1", "q1", "'text' must be str, got int"],
        ),
        ({"eval__shop__queries": b'{"_id": 1, "text": "drink"}\n'}, ["queries.jsonl, line 1", "'_id' must be str"]),
        ({"eval__shop__corpus": b'{"_id": "d1", "text": "caf\xe9"}\n'}, ["corpus.jsonl, line 1", "not UTF-8", "iconv"]),
        ({"eval__shop__corpus": b'{"_id": "d1", "te'}, ["corpus.jsonl, line 1", "not JSON"]),
        ({"finetune__shop": b'{"anchor": "a"}\n'}, ["shop.jsonl, line 1", "'positive' is missing"]),
        ({"finetune__shop": b'\n{"anchor": "a", "positive_id": "d9"}\n'}, ["shop.jsonl, line 2", "no passage 'd9'"]),
        (
            {"finetune__shop": b'{"anchor": "a", "positive": "b", "negative": ["c"]}\n'},
            ["shop.jsonl, line 1", "'negative'; did you mean 'negatives'"],
        ),
        (
            {"eval__shop__relevance": b'{"query-id": "q1", "corpus-id": "d1", "score": NaN}\n'},
            ["relevance.jsonl, line 1", "'score' is nan"],
        ),
        ({"eval__shop__corpus": gzip.compress(b"{}")}, ["corpus.jsonl, line 1", "gzip", "gunzip -c"]),
        ({"eval__shop__corpus": '{"_id": "d1"}'.encode("utf-16")}, ["corpus.jsonl, line 1", "iconv -f utf-16"]),
        (
            {"eval__shop__corpus": b'{"_id": "d1", "title": null, "text": "\\ud83d"}\n'},
            ["corpus.jsonl, line 1", "half a character"],
        ),
        ({"finetune__shop": b'{"anchor": "something to drink", "positive": "water"}\n'}, ["something to drink"]),
    ],
)
def test_bad_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: dict, words: list[str]
) -> None:
    monkeypatch.chdir(ROOT)
    sets = ["collection=shop", f"artifacts={tmp_path / 'artifacts'}"]
    line = says(capsys, "pipeline", "demo", "--data-dir", str(shop(tmp_path / "data", **changed)), "--set", *sets)
    assert all(word in line for word in words), line
    assert not (tmp_path / "artifacts").exists(), "nothing was written"


def test_a_stage_alone_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    "One line, exit code 1, and the executed notebook, which can be opened; nothing else is written."
    monkeypatch.chdir(ROOT)
    line = says(capsys, "run", "teach", "-p", "run", "r", "-p", "artifacts", str(tmp_path))
    assert "12_teach: FileNotFoundError: no file" in line and "disti run mine -p run r" in line
    made = sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    assert made == ["12_teach.ipynb"]
    assert "FileNotFoundError" in (tmp_path / "r" / "notebooks" / "12_teach.ipynb").read_text(encoding="utf-8")


# --- without the checkout ----------------------------------------------------------------------------------------


def test_plain_install_has_its_stages(tmp_path: Path) -> None:
    "A wheel, in an environment of its own that borrows the installed packages but not this checkout."
    source = tmp_path / "source"
    names = call("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file() and name.split("/")[0] not in ("docs", "tests", "bench"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    built = call(sys.executable, "setup.py", "-q", "bdist_wheel", "-d", tmp_path, cwd=source)
    assert built.returncode == 0, built.stdout[-3000:]
    venv.create(tmp_path / "venv", symlinks=True)
    place = next((tmp_path / "venv" / "lib").glob("python3*/site-packages"))
    zipfile.ZipFile(next(tmp_path.glob("disti-*.whl"))).extractall(place)
    (place / "borrowed.pth").write_text(f"{next(p for p in sys.path if p.endswith('site-packages'))}\n")
    cell = nbformat.v4.new_code_cell("import disti\nprint(disti.__file__)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "where.ipynb")

    def disti(*words: str) -> str:
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = call(tmp_path / "venv" / "bin" / "python", "-m", "disti", *words, cwd=tmp_path, env=clean)
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "11_mine" in disti("stages") and "depth" in disti("params", "mine")
    assert str(place) in disti("pipeline", "--list")
    assert str(place) in disti("run", "where.ipynb"), "the kernel imports what was installed"
    assert "would run mine" in disti("pipeline", "demo", "--set", "scale=smoke", "--dry-run")
    assert json.loads((tmp_path / "artifacts" / "notebooks" / "where.ipynb").read_text())["cells"]
