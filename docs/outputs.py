"""What the stages of a finished run showed, put into their notebooks, for the site.

    python docs/outputs.py artifacts/demo

Of a stage that ran several times the job of the main student is taken (of scoring: the teacher's), or the first. A cell
below "Run" shows what the cell of the same code showed there, without progress bars; a cell whose code has changed
since shows nothing, and is told. A smoke run is refused: its numbers mean nothing.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
Cell = dict[str, Any]
SHOWN = ("image/png", "text/html", "text/markdown", "text/plain")  # of data, in this order


def text(cell: Cell) -> str:
    "A cell's source."
    return "".join(cell["source"])


def shown(output: Cell) -> Cell | None:  # None: nothing that stays
    "An output as the site keeps it."
    if output["output_type"] == "stream" and output["name"] == "stdout":
        return {"name": "stdout", "output_type": "stream", "text": output["text"]}
    data = {kind: output.get("data", {})[kind] for kind in SHOWN if kind in output.get("data", {})}
    return {"data": data, "metadata": {}, "output_type": "display_data"} if data.keys() - {"text/plain"} else None


def joined(outputs: list[Cell]) -> list[Cell]:
    "Outputs, what was printed piece by piece as one."
    made: list[Cell] = []
    for output in filter(None, map(shown, outputs)):
        if output["output_type"] == "stream" and made and made[-1]["output_type"] == "stream":
            made[-1]["text"] = [*made[-1]["text"], *output["text"]]
        else:
            made.append(output)
    return made


def chosen(stage: str, jobs: list[Path], main: str) -> Path:
    "The job of the main student, of scoring the teacher's; or the first."
    name = "teacher" if stage == "13_score" else main
    wanted = [path for path in jobs if path.stem.partition("-")[2] in (name, "")]
    return (wanted or sorted(jobs))[0]


def fill(notebook: Path, job: Path, said: str) -> list[str]:  # first lines of cells whose code has changed
    "Put what one job showed into the run half of its stage's notebook."
    book, ran = (json.loads(path.read_text(encoding="utf-8")) for path in (notebook, job))
    showed = {text(cell): cell["outputs"] for cell in ran["cells"] if cell["cell_type"] == "code"}
    at = next(i for i, cell in enumerate(book["cells"]) if "parameters" in cell["metadata"].get("tags", []))
    assert text(book["cells"][at - 1]).startswith("## Run"), f"{notebook.name}: no '## Run' above the parameters"
    book["cells"][at - 1]["source"] = ["## Run\n", "\n", said]
    other = []
    for cell in book["cells"][at + 1 :]:
        if cell["cell_type"] == "code":
            cell["outputs"] = joined(showed.get(text(cell), []))
            other += [] if text(cell) in showed or text(cell).startswith("#|") else [text(cell).splitlines()[0]]
    notebook.write_text(json.dumps(book, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return other


def stages_of(run: Path) -> dict[str, list[Path]]:
    "The executed notebooks of a run, by stage."
    found: dict[str, list[Path]] = {}
    for path in sorted((run / "notebooks").glob("[0-9]*.ipynb")):
        found.setdefault(re.split(r"-", path.stem)[0], []).append(path)
    return found


def main(words: list[str] | None = None) -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of full size")
    parser.add_argument("--nbs", type=Path, default=ROOT / "nbs", help="folder of the stages' notebooks (default: nbs)")
    asked = parser.parse_args(words)
    if not (asked.run / "notebooks").is_dir() or not (asked.run / "recipe.yaml").exists():
        parser.error(f"{asked.run} holds no finished run: no notebooks/ and recipe.yaml in it")
    recipe = yaml.safe_load((asked.run / "recipe.yaml").read_text(encoding="utf-8"))
    if recipe.get("scale") not in (None, "", "full"):
        parser.error(f"{asked.run} is a run of scale {recipe['scale']!r}, whose numbers mean nothing")
    student = recipe.get("main") or next(iter(recipe["students"]))
    for stage, jobs in stages_of(asked.run).items():
        job = chosen(stage, jobs, student)
        said = (
            f"Below stands what job `{job.stem}` of run `{asked.run.name}` showed (seed {recipe.get('seed', 0)}; "
            "its table: [results](index.ipynb)); by itself a notebook takes the values of its parameters cell."
        )
        for line in fill(asked.nbs / f"{stage}.ipynb", job, said):
            print(f"{stage}: changed since, shows nothing: {line}")
        print(f"{stage}: of {job.stem}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
