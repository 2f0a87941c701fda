"""Where a pipeline's time goes: how much of its jobs is not tokenising, encoding, scoring or training.

    python bench/pipeline.py --run artifacts/demo       a finished run, whose executed notebooks are read
    python bench/pipeline.py --tiny                     a made-up run: does it work? No figures

Every job is an executed notebook, and papermill has written down how long each cell took. The work of a job is in one
cell, its longest; what lies around it (the start of the kernel, imports, reading, looking, plotting, writing) is
overhead. So a second cell that computes counts as overhead too, and reading inside the longest one as work. The seconds
are those of all jobs one after another. The last line is one JSON object.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

Cell = tuple[float, str]  # seconds, the first line of the cell


def timed(notebook: Path) -> tuple[float, Cell]:  # seconds of the whole; the longest cell
    "How long a notebook took, and where."
    told = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [
        (float(cell["metadata"].get("papermill", {}).get("duration") or 0), first_line(cell)) for cell in told["cells"]
    ]
    whole = told["metadata"].get("papermill", {}).get("duration")
    return float(whole or sum(seconds for seconds, _ in cells)), max(cells, default=(0.0, ""))


def first_line(cell: dict) -> str:
    "What a cell begins with."
    return next((line.strip() for line in "".join(cell["source"]).splitlines() if line.strip()), "")


def toy_run(folder: Path) -> Path:
    "Two executed notebooks."
    (folder / "notebooks").mkdir()
    for name, took in (("11_mine", (1.0, 7.0, 1.0)), ("15_lora-full", (0.5, 9.0, 0.5))):
        cells = [
            {"source": [f"step {i}"], "metadata": {"papermill": {"duration": each}}} for i, each in enumerate(took)
        ]
        told = {"cells": cells, "metadata": {"papermill": {"duration": sum(took) + 1}}}
        (folder / "notebooks" / f"{name}.ipynb").write_text(json.dumps(told), encoding="utf-8")
    return folder


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="artifacts/demo", help="folder of a finished run (default: the demo's)")
parser.add_argument("--tiny", action="store_true", help="a made-up run: does it work? No figures")
options = parser.parse_args()
with tempfile.TemporaryDirectory() as keep:
    home = toy_run(Path(keep)) if options.tiny else Path(options.run)
    jobs = {path.stem: timed(path) for path in sorted((home / "notebooks").glob("[!.]*.ipynb"))}
if not jobs:
    raise SystemExit(
        f"no executed notebooks in {home / 'notebooks'}; run a pipeline first, and give its folder: --run FOLDER"
    )
stages = defaultdict[str, list[tuple[float, Cell]]](list)
for name, job in jobs.items():
    stages[name.partition("-")[0]].append(job)
print(f"{'stage':<16}{'jobs':>5}{'seconds':>9}{'around the work':>17}   the work of the longest")
for stage, found in stages.items():
    seconds, work = sum(whole for whole, _ in found), sum(cell[0] for _, cell in found)
    print(f"{stage:<16}{len(found):>5}{seconds:>9.1f}{1 - work / max(seconds, 1e-9):>17.0%}   {max(found)[1][1][:60]}")
total, work = sum(whole for whole, _ in jobs.values()), sum(cell[0] for _, cell in jobs.values())
print(json.dumps({"overhead_share": round(1 - work / max(total, 1e-9), 3), "seconds": round(total, 1)}))
