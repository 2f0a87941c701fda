"""Does the automatic temperature replace a search over temperatures? On a finished run of the demo.

    python bench/temperature.py --run artifacts/demo

Students are distilled from the run's teacher scores with the automatic temperature and with every fixed one of a grid
(multiples of the scores' own spread within a list), by KL and by the default objective, two seeds each; then again from
scores multiplied by 20, with the automatic temperature and with the fixed one that was best before. Each cell is
measured by nDCG@10 over all test queries and a part of the corpus that holds every answer, and kept in a file: a
stopped run goes on where it was. The last line is one JSON object.
"""

import json
import statistics
from functools import partial
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from students import Demo, parser, read_options
from students import mean as over_queries

from disti.batches import list_rows, sample_negatives
from disti.records import Row

made = parser(__doc__ or "", steps=30, batch_size=16, passages=2000)
made.add_argument("--losses", nargs="+", default=["kl", "info_nce + kl"])
made.add_argument("--grid", nargs="+", type=float, default=[0.05, 0.2, 1, 5, 20], help="τ over the spread of a list")
made.add_argument("--factor", type=float, default=20, help="what the teacher's scores are multiplied by")
options = read_options(made)
if options.tiny:
    options.losses, options.grid = ["kl"], [1]
demo = Demo(options)
spread = float(np.median([np.std(row["scores"]) for row in demo.scored]))


def trained(loss: str, seed: int, factor: float, tau: float, folder: Path) -> tuple[SentenceTransformer, Row]:
    "One student."
    rows = [row | {"scores": [factor * score for score in row["scores"]]} for row in demo.scored]
    lists = list_rows(sample_negatives(rows, options.n_negatives, seed), demo.mined.queries, demo.mined.corpus)
    objective = loss.replace("kl", f"kl(tau_teacher={tau * spread})")
    return demo.train(demo.load(), lists, objective, demo.settings(seed), folder)


def cell(loss: str, seed: int, factor: float, tau: float) -> float:  # tau: a multiple of the spread; 0: automatic
    "nDCG@10 of one student."
    key = {"loss": loss, "seed": seed, "factor": factor, "tau": tau}
    return over_queries(demo.student(key, partial(trained, loss, seed, factor, tau)))


def mean(loss: str, factor: float, tau: float) -> float:
    "The mean of a cell over the seeds."
    return statistics.mean(cell(loss, seed, factor, tau) for seed in options.seeds)


lines, table = [], []
for loss in options.losses:
    fixed = {tau: mean(loss, 1, tau) for tau in options.grid}
    best = max(fixed, key=lambda tau: fixed[tau])
    auto = mean(loss, 1, 0)
    pairs = {
        tau: [(cell(loss, seed, 1, tau), cell(loss, seed, options.factor, tau)) for seed in options.seeds]
        for tau in (0, best)
    }
    moved = {tau: max(abs(b - a) for a, b in each) for tau, each in pairs.items()}
    lines.append(
        {
            "loss": loss,
            "auto_minus_best": auto - fixed[best],
            "auto_shift_x20": moved[0],
            "fixed_shift_x20": moved[best],
        }
    )
    table.append((loss, fixed, auto, {tau: statistics.mean(b for _, b in each) for tau, each in pairs.items()}, best))

print(
    f"\nnDCG@10, mean of {len(options.seeds)} seeds, {len(demo.asked)} queries, {len(demo.kept)} passages; "
    f"τ in units of the teacher's spread in a list ({spread:.3g})"
)
print(
    f"{'':16}"
    + "".join(f"{tau:>8g}" for tau in options.grid)
    + f"{'auto':>8}   scores x {options.factor:g}: best τ, auto"
)
for loss, fixed, auto, loud, best in table:
    print(
        f"{loss:16}"
        + "".join(f"{value:8.4f}" for value in fixed.values())
        + f"{auto:8.4f}   τ {best:g}: {loud[best]:.4f}, auto: {loud[0]:.4f}"
    )
print(
    json.dumps(
        {
            "auto_minus_best": round(min(line["auto_minus_best"] for line in lines), 4),
            "auto_shift_x20": round(max(line["auto_shift_x20"] for line in lines), 4),
            "fixed_shift_x20": round(max(line["fixed_shift_x20"] for line in lines), 4),
            "losses": [
                {key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()}
                for line in lines
            ],
        }
    )
)
