"""Evaluation against its peers: measures against ranx and ir_measures, all of it against sentence-transformers.

    python bench/evaluation.py            10 000 queries × 100 passages; 100 000 passages, 2 000 queries
    python bench/evaluation.py --quick    does it work? No figures

Measures: nDCG@10, MRR@10 and Recall@10 of a graded run, from the dictionaries that each library is given; what a
library makes of them first counts (ranx its own types; it has compiled before). The values must agree to 1e-9.
Whole evaluation: `InformationRetrievalEvaluator` against `evaluate` (exact search, 100 passages a query, three
measures). Both are given the same vectors, so that encoding costs nothing. Memory is the highest resident size above
that before the call. Every measurement is a process of its own with one thread, the order alternates, the median
counts. ranx is not required: `pip install ranx` first, else its ratio is null. The last line is one JSON object of
ratios: above 1 disti is faster, and takes less memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"
import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--queries", type=int, default=10_000, help="of the measures, 100 passages each")
parser.add_argument("--passages", type=int, default=100_000, help="of the whole evaluation")
parser.add_argument("--asked", type=int, default=2_000, help="queries of the whole evaluation")
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--quick", "--tiny", action="store_true", help="tiny sizes: does it work? No figures")
parser.add_argument("--way", help=argparse.SUPPRESS)  # what a child process measures
parser.add_argument("--folder", help=argparse.SUPPRESS)
options = parser.parse_args()
if options.quick:
    vars(options).update(queries=200, passages=2_000, asked=50, repeats=1)
NAMES = {"nDCG@10": "ndcg@10", "MRR@10": "mrr@10", "Recall@10": "recall@10"}  # ours → of ranx


def status(key: str) -> float:
    "A figure of this process, MiB: VmRSS now, VmHWM the highest."
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def measured(call: Callable[[], dict[str, float]]) -> dict[str, float]:
    "Seconds of a call, the memory it took on top, and the means it returned."
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew
    started = time.perf_counter()
    means = call()
    return {"seconds": time.perf_counter() - started, "mib": max(status("VmHWM") - before, 0.1), **means}


def graded_run() -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    "Twenty judged of two hundred passages a query, a hundred ranked without ties."
    rng, qrels, run = np.random.default_rng(0), {}, {}
    for q in range(options.queries):
        judged, ranked = rng.permutation(200)[:20], rng.permutation(200)[:100]
        grades = rng.integers(0, 4, 20)
        grades[0] = 1  # ranx counts a query without a relevant passage 0, others leave it out
        qrels[f"q{q}"] = {f"d{doc}": int(grade) for doc, grade in zip(judged, grades, strict=True)}
        scores = rng.permutation(100) / 100
        run[f"q{q}"] = {f"d{doc}": float(score) for doc, score in zip(ranked, scores, strict=True)}
    return qrels, run


def by_disti(qrels: Any, run: Any) -> dict[str, float]:
    "Three means."
    from disti.metrics import mean_measures, measure

    return mean_measures(measure(qrels, {q: list(hits.items()) for q, hits in run.items()}, list(NAMES)))


def by_ir_measures(qrels: Any, run: Any) -> dict[str, float]:
    "The same, as its README has it."
    import ir_measures
    from ir_measures import RR, R, nDCG

    means = ir_measures.calc_aggregate([nDCG @ 10, RR @ 10, R @ 10], qrels, run)
    return {name: means[m] for name, m in zip(NAMES, (nDCG @ 10, RR @ 10, R @ 10), strict=True)}


def by_ranx(qrels: Any, run: Any) -> dict[str, float]:
    "The same, as its README has it; its judgements may not hold a grade 0."
    from ranx import Qrels, Run, evaluate

    positive = {q: {d: g for d, g in docs.items() if g > 0} for q, docs in qrels.items()}
    means = evaluate(Qrels(positive), Run(run), list(NAMES.values()), make_comparable=True)
    return {name: float(means[other]) for name, other in NAMES.items()}


MEASURES = {"disti": by_disti, "ir_measures": by_ir_measures, "ranx": by_ranx}


def measures(way: str) -> dict[str, float]:
    "One library on the graded run, warm."
    qrels, run = graded_run()
    few = list(qrels)[:20]
    MEASURES[way]({q: qrels[q] for q in few}, {q: run[q] for q in few})  # imports, and what ranx compiles
    return measured(lambda: MEASURES[way](qrels, run))


def make_vectors(folder: Path) -> None:
    "Random passages of length 1, and queries near the first of them."
    rng = np.random.default_rng(0)
    docs = rng.standard_normal((options.passages, 384), dtype="f4")
    docs /= np.linalg.norm(docs, axis=1, keepdims=True)
    queries = docs[: options.asked] + rng.standard_normal((options.asked, 384), dtype="f4") / 384**0.5 * 2
    np.save(folder / "docs.npy", docs)
    np.save(folder / "queries.npy", queries / np.linalg.norm(queries, axis=1, keepdims=True))


class Given:
    "As much of a SentenceTransformer as the evaluator asks for: it returns vectors that it was given."

    device, similarity_fn_name = "cpu", "cosine"

    def __init__(self, queries: np.ndarray, docs: np.ndarray) -> None:
        self.queries, self.docs, self.seen = queries, docs, 0

    def encode_query(self, texts: list[str], **_: Any) -> Any:
        import torch

        return torch.from_numpy(self.queries)

    def encode_document(self, texts: list[str], **_: Any) -> Any:
        import torch

        self.seen += len(texts)
        return torch.from_numpy(self.docs[self.seen - len(texts) : self.seen])


def whole(way: str) -> dict[str, float]:
    "One evaluation with vectors that are loaded."
    import torch

    torch.set_num_threads(1)
    docs, queries = (np.load(Path(options.folder) / f"{name}.npy") for name in ("docs", "queries"))
    corpus = {f"d{i}": f"passage {i}" for i in range(len(docs))}
    asked = {f"q{i}": f"query {i}" for i in range(len(queries))}
    if way == "disti-whole":
        from disti.compact import Space
        from disti.data import Collection
        from disti.evaluate import evaluate
        from disti.metrics import mean_measures

        texts = Collection("bench", corpus, asked, {f"q{i}": {f"d{i}": 1.0} for i in range(len(queries))})
        space = Space(queries, docs, list(asked), list(corpus))
        return measured(lambda: mean_measures(evaluate("given", texts, space.search, 100).rows))
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import cos_sim

    right = {f"q{i}": {f"d{i}"} for i in range(len(queries))}
    ways: dict[str, Any] = {"mrr_at_k": [10], "ndcg_at_k": [10], "accuracy_at_k": [10], "precision_recall_at_k": [10]}
    judge = InformationRetrievalEvaluator(
        asked, corpus, right, **ways, map_at_k=[100], score_functions={"cos": cos_sim}
    )

    def call() -> dict[str, float]:
        found = judge.compute_metrices(Given(queries, docs))["cos"]
        return {"nDCG@10": found["ndcg@k"][10], "MRR@10": found["mrr@k"][10], "Recall@10": found["recall@k"][10]}

    return measured(call)


def child(way: str, folder: str) -> dict[str, float]:
    "Measure in a process of its own, with one thread."
    sizes = [f"--{name}={getattr(options, name)}" for name in ("queries", "passages", "asked")]
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, __file__, "--way", way, "--folder", folder, *sizes],
        env=os.environ | one, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def rounds(ways: list[str], folder: str) -> dict[str, dict[str, float]]:
    "Medians of some rounds in alternating order; the means of all ways must agree."
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for n in range(options.repeats):
        for way in ways if n % 2 == 0 else reversed(ways):
            found[way].append(child(way, folder))
    first = found[ways[0]][0]
    for way in ways:
        off = max(abs(found[way][0][name] - first[name]) for name in NAMES)
        assert off < (1e-9 if "whole" not in way and way != "st" else 1e-4), f"{way} differs by {off}"
    return {
        way: {key: statistics.median(one[key] for one in some) for key in ("seconds", "mib")}
        for way, some in found.items()
    }


def main() -> None:
    "Both tables and the ratios."
    small = ["disti", "ir_measures", *(["ranx"] if find_spec("ranx") else [])]
    with tempfile.TemporaryDirectory() as folder:
        make_vectors(Path(folder))
        told = rounds(small, folder) | rounds(["disti-whole", "st"], folder)
    print("| way | seconds | MiB on top |\n|---|---|---|")
    for way, row in told.items():
        print(f"| {way} | {row['seconds']:.2f} | {row['mib']:.0f} |")
    ours, whole_ours = told["disti"], told["disti-whole"]
    ratios = {
        "speed_over_st": told["st"]["seconds"] / whole_ours["seconds"],
        "memory_over_st": told["st"]["mib"] / whole_ours["mib"],
        "speed_over_ranx": told["ranx"]["seconds"] / ours["seconds"] if "ranx" in told else None,
        "speed_over_ir_measures": told["ir_measures"]["seconds"] / ours["seconds"],
    }
    print(json.dumps({name: value and round(value, 2) for name, value in ratios.items()}))


if options.way:
    print(json.dumps(measures(options.way) if options.way in MEASURES else whole(options.way)))
else:
    main()
