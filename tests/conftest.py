"What the tests share: forked notebooks, the smoke run, the built site."

import io
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks.tally import pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown, tally  # noqa: F401
from browser import find_browser

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SMOKE = ROOT / "artifacts" / "smoke"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a process that is forked must not own threads
os.environ["MPLBACKEND"] = "agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"
os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"


def pytest_addoption(parser: pytest.Parser) -> None:
    "Two switches of our own."
    parser.addoption(
        "--nb-flags", default="", help="cells to run although settings.ini's tst_flags skips them: 'slow gpu'"
    )
    parser.addoption(
        "--keep-smoke", action="store_true", help="use what is left of the last smoke run instead of starting over"
    )


def together(nodeid: str) -> str:
    "What a test stays in one process with: all that read or change the smoke run, all that look at the site, itself."
    if re.search(
        r"test_(pipeline|faults|damage|batch)\.py|test_site\.py::test_report|\[([12]\d[^\]]*|tutorials.*)\.ipynb\]",
        nodeid,
    ):
        return "run"
    if "test_serving.py" in nodeid:
        return "serving"
    return "site" if "test_site.py" in nodeid else nodeid


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, whose own groups are lost under pytest 9.2
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    "Deal the tests out to the processes, what belongs together to one."
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(nodeid)

    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "What waits for the smoke run is slow and stays in one process; without a browser its tests skip; slow ones begin."
    no_browser = pytest.mark.skip(reason="no browser; on Debian: apt-get install chromium chromium-driver")
    for item in items:
        needs = getattr(item, "fixturenames", ())
        if "smoke" in needs:
            item.add_marker(pytest.mark.slow)
        if ("smoke" in needs or item.get_closest_marker("run")) and together(item.nodeid) != "run":
            raise pytest.UsageError(f"{item.nodeid} reads the smoke run: name its file in `together` of conftest.py")
        if item.get_closest_marker("browser") and not find_browser():
            item.add_marker(no_browser)
    items.sort(key=lambda item: not item.get_closest_marker("slow"))  # first, or one process would wait for the other


def call(*words: str | Path, **more) -> subprocess.CompletedProcess:
    "Run a command in the project's folder; its words come back, errors among them."
    return subprocess.run(
        [str(word) for word in words],
        cwd=more.pop("cwd", ROOT),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **more,
    )


def changed_against_main() -> set[Path]:
    "Files that differ from where this work left main, new ones included; on main itself, from what was pushed last."

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, text=True, capture_output=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    bases = [git("merge-base", "HEAD", name) for name in ("main", "origin/main")]
    base = next((found for found in bases if found and found != head), "HEAD")
    words = git("diff", "--name-only", base) + "\n" + git("ls-files", "--others", "--exclude-standard")
    return {(ROOT / name).resolve() for name in words.splitlines() if name}


@pytest.fixture(scope="session")
def smoke(request: pytest.FixtureRequest) -> Path:
    "The whole demo recipe at smoke size, once a session: what the stage notebooks read."
    if SMOKE.exists() and not request.config.getoption("--keep-smoke"):
        shutil.rmtree(SMOKE)
    done = call(BIN / "disti", "pipeline", "recipes/demo.yaml", "--set", "scale=smoke", "run=smoke", timeout=1500)
    if done.returncode:
        pytest.fail(f"the smoke run failed with exit code {done.returncode}:\n{done.stdout[-6000:]}", pytrace=False)
    (SMOKE / "pipeline.log").write_text(done.stdout, encoding="utf-8")
    return SMOKE


def keep(source: Path, target: Path) -> None:
    "Copy a run with its times; models, which are only ever replaced whole, by a link."

    def copy(one: str, other: str) -> None:
        if one.endswith(".safetensors"):
            os.link(one, other)
        else:
            shutil.copy2(one, other)

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=copy, symlinks=True)


KNOWN = ROOT / ".snakemake" / "metadata"  # what Snakemake knows of each result, its inputs' contents among it


@pytest.fixture(scope="session")
def smoke_as_made(smoke: Path) -> Iterator[Path]:
    "A copy of the smoke run, and of what Snakemake knows of it, taken before any stage notebook is run alone."
    copy = smoke.with_name(".smoke-as-made")
    keep(smoke, copy)
    keep(KNOWN, copy / ".metadata")
    yield copy
    shutil.rmtree(copy)


@pytest.fixture
def stage_files(smoke: Path, smoke_as_made: Path) -> Iterator[Path]:
    "The smoke run for one stage, whose defaults need not be the recipe's: what it writes is undone."
    yield smoke
    keep(smoke_as_made, smoke)
    keep(smoke / ".metadata", KNOWN)
    shutil.rmtree(smoke / ".metadata")


@pytest.fixture(scope="session")
def heavy_imports() -> None:
    "Import torch and what is slow to import once: every forked notebook then starts in about no time."
    import torch

    torch.set_num_threads(1)
    for name in (
        "sentence_transformers",
        "transformers",
        "peft",
        "datasets",
        "pandas",
        "matplotlib.pyplot",
        "seaborn",
        "nbdev.test",
    ):
        __import__(name)


def notebook_child(path: Path, flags: list[str], log: int) -> None:
    "In the child: send everything to `log`, then run the notebook as nbdev_test does."
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(fd, "wb", 0), write_through=True) for fd in (1, 2))
    from nbdev.config import get_config
    from nbdev.test import test_nb

    config = get_config(path=str(path))
    passed, _ = test_nb(path, skip_flags=config.tst_flags.split(), force_flags=flags, basepath=config.config_path)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if passed else 1)


@pytest.fixture
def run_notebook(request: pytest.FixtureRequest, heavy_imports: None):
    "A function that runs one notebook in a process of its own and fails with its traceback."

    def run(path: Path, seconds: float = 600) -> None:
        flags = request.config.getoption("--nb-flags").split()
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            child = multiprocessing.get_context("fork").Process(target=notebook_child, args=(path, flags, log.fileno()))
            child.start()
            child.join(seconds)
            late = child.is_alive()
            if late:
                child.kill()
                child.join()
            log.seek(0)
            words = log.read()
        if late or child.exitcode:
            why = f"no end after {seconds} s" if late else f"exit code {child.exitcode}"
            pytest.fail(f"{path.name}: {why}\n{words[-8000:]}", pytrace=False)

    return run


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The site, built anew; a warning fails it."
    out = tmp_path_factory.mktemp("site")
    done = call(sys.executable, "docs/build.py", "--out", out, timeout=600)
    (out / "build.log").write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        pytest.fail(f"the documentation does not build without warnings:\n{done.stdout[-6000:]}", pytrace=False)
    return out
