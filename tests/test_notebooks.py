"Every notebook runs from top to bottom; stages find the files of a smoke run."

import re
from pathlib import Path

import pytest
from conftest import ROOT, changed_against_main

NOTEBOOKS = sorted(
    path for path in (ROOT / "nbs").rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in path.parts)
)


def reads_a_run(path: Path) -> bool:
    "Stages read what earlier stages wrote, the first one the collection; tutorials may read all of it."
    return bool(re.match(r"[12]\d", path.name)) or path.parent.name == "tutorials"


CHANGED = changed_against_main()


def as_case(path: Path):
    "A notebook as a test: `make quick` takes those of the library that changed against main."
    marks = [pytest.mark.run] if reads_a_run(path) else [pytest.mark.quick] * (path.resolve() in CHANGED)
    return pytest.param(path, id=path.relative_to(ROOT / "nbs").as_posix(), marks=marks)


@pytest.mark.parametrize("path", map(as_case, NOTEBOOKS))
def test_notebook(path: Path, run_notebook, request: pytest.FixtureRequest) -> None:
    if reads_a_run(path):
        request.getfixturevalue("stage_files")
    run_notebook(path)


def test_a_failing_cell_fails_the_test(tmp_path: Path, run_notebook) -> None:
    import nbformat

    broken = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("import torch\nassert torch.ones(2).sum() == 3, 'two, not three'")]
    )
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(pytest.fail.Exception, match="two, not three"):
        run_notebook(tmp_path / "broken.ipynb")
