"""Mining of hard negatives against sentence-transformers and bm25s: seconds, and memory above what is loaded.

    python bench/mining.py              100 000 passages, 2 000 queries; 400 000 and 1 000 000 passages for memory
    python bench/mining.py --quick      does it work? No figures

Dense: both sides are given the same vectors, so that encoding costs nothing: random ones of length 1, a query near its
positive. `mine_hard_negatives` (a relative margin of .05, three negatives of about thirty candidates) against
`mine_negatives` with the filter `percentage 0.05`, which also writes what became of every candidate.
BM25: made-up text whose words are distributed as in a language (Zipf), with English stop words as the most frequent,
which bm25s drops; from texts to the 100 best passages of every query, reading, indexing and ranking included.

Every measurement is a process of its own with one thread, the order alternates, and ratios are of pairs of one round;
the median counts. Memory is the highest resident size above that before the call (of the million: the whole process,
with its texts). rank_bm25 is asked few queries and its time for all is projected. The last line is one JSON object:
`dense_speed_ratio` and `bm25_speed_ratio` are theirs / ours (above 1: faster), `dense_memory_ratio` is ours / theirs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"
import numpy as np
from tqdm import tqdm

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--passages", type=int, default=100_000)
parser.add_argument("--queries", type=int, default=2_000)
parser.add_argument("--large", type=int, default=400_000, help="passages of the second dense measurement of memory")
parser.add_argument("--million", type=int, default=1_000_000, help="passages of the second BM25 measurement of memory")
parser.add_argument("--parts", nargs="+", default=["dense", "bm25", "million"], choices=["dense", "bm25", "million"])
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of the process alone")
parser.add_argument("--quick", "--tiny", action="store_true", help="tiny sizes: does it work? No figures")
parser.add_argument("--way", help=argparse.SUPPRESS)  # what a child process measures
parser.add_argument("--folder", help=argparse.SUPPRESS)
options = parser.parse_args()
if options.quick:
    vars(options).update(passages=2000, queries=30, large=4000, million=3000, repeats=1)
ASKED = 20  # queries that rank_bm25 is asked


def status(key: str) -> float:
    "A figure of this process, MiB: VmRSS now, VmHWM the highest."
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def measured(call: Callable[[], Any]) -> dict[str, float]:
    "Seconds of a call and memory it took on top."
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    started = clock()
    call()
    return {"seconds": clock() - started, "mib": status("VmHWM") - before, "total_mib": status("VmHWM")}


def make_vectors(folder: Path, n: int) -> None:
    "Random passages of length 1, and queries near the first of them."
    rng = np.random.default_rng(0)
    docs = np.lib.format.open_memmap(folder / f"docs-{n}.npy", "w+", "f4", (n, 384))
    for start in range(0, n, 10_000):
        rows = rng.standard_normal((min(10_000, n - start), 384), dtype="f4")
        docs[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    queries = docs[: options.queries] + rng.standard_normal((options.queries, 384), dtype="f4") / 384**0.5
    np.save(folder / "queries.npy", queries / np.linalg.norm(queries, axis=1, keepdims=True))


class Given:
    "As much of a SentenceTransformer as the miner asks for: it returns vectors that it was given."

    device = "cpu"

    def __init__(self, queries: np.ndarray, docs: np.ndarray) -> None:
        from sentence_transformers.util import cos_sim, pairwise_cos_sim

        self.queries, self.docs, self.similarity, self.similarity_pairwise = queries, docs, cos_sim, pairwise_cos_sim

    def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
        return self.queries

    def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
        return self.docs

    def get_embedding_dimension(self) -> int:
        return self.docs.shape[1]


def dense(way: str, n: int) -> dict[str, float]:
    "Mine with vectors that are loaded."
    import torch

    torch.set_num_threads(options.threads)
    folder = Path(options.folder)
    docs, queries = np.load(folder / f"docs-{n}.npy"), np.load(folder / "queries.npy")
    passages, asked = [f"passage {i}" for i in range(n)], [f"query {i}" for i in range(len(queries))]
    if way == "disti":
        from disti.negatives import Wish, dense_miner, mine_negatives

        row = {query: i for i, query in enumerate(asked)}
        miner = dense_miner(lambda texts: queries[[row[text] for text in texts]], passages, docs)
        qrels = {query: {passages[i]: 1.0} for i, query in enumerate(asked)}
        answers = {query: set(found) for query, found in qrels.items()}
        wish, texts = {"dense": Wish(3, "percentage 0.05")}, {query: query for query in asked}
        return measured(lambda: mine_negatives({"dense": miner}, wish, texts, qrels, answers=answers))
    import faiss
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    faiss.omp_set_num_threads(options.threads)
    pairs = Dataset.from_dict({"anchor": asked, "positive": passages[: len(asked)]})
    model, faiss_too = Given(queries, docs), way.endswith("faiss")
    return measured(
        lambda: mine_hard_negatives(
            pairs, model, corpus=passages, relative_margin=0.05, num_negatives=3, use_faiss=faiss_too, verbose=False
        )
    )


def zipf_texts(n: int, seed: int, mean: float = 56.0) -> Iterator[str]:
    "Texts of about 56 words (as MS MARCO's passages), words by Zipf's law over a vocabulary that grows with the text."
    from bm25s.stopwords import STOPWORDS_EN

    rng, letters = np.random.default_rng(0), "etaoinshrdlucmfwypvbgkjqxz"
    words = list(STOPWORDS_EN) + [
        "".join(letters[int(26 * u**1.7)] for u in rng.random(length)) for length in 3 + rng.poisson(4.5, 400_000)
    ]
    table, rng = np.array(words, dtype=object), np.random.default_rng(seed)
    share = 1 / (np.arange(len(words)) + 2.7) ** 1.1
    share = np.cumsum(share / share.sum())
    for start in range(0, n, 10_000):
        lengths = np.clip(rng.lognormal(np.log(mean) - 0.1, 0.45, min(10_000, n - start)), 3, 400).astype(int)
        drawn = table[np.searchsorted(share, rng.random(lengths.sum())).clip(max=len(words) - 1)]
        for end, length in zip(np.cumsum(lengths), lengths, strict=True):
            yield " ".join(drawn[end - length : end]).capitalize() + "."


def by_bm25s(texts: list[str], asked: list[str], backend: str) -> None:
    "As its README has it."
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    tokens = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
    index = bm25s.BM25(backend=backend)
    index.index(tokens, show_progress=False)
    found = bm25s.tokenize(asked, stopwords="en", stemmer=stemmer, show_progress=False)
    index.retrieve(found, k=min(100, len(texts)), show_progress=False)


def by_rank_bm25(texts: list[str], asked: list[str]) -> float:
    "The same words; seconds for all queries, projected from a few."
    import Stemmer
    from rank_bm25 import BM25Okapi

    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    started, stem = clock(), Stemmer.Stemmer("english").stemWords
    index = BM25Okapi([stem(text.lower().split()) for text in texts])
    ready = clock()
    for query in asked[:ASKED]:
        np.argsort(-index.get_scores(stem(query.lower().split())))[:100]
    return (ready - started) + (clock() - ready) * len(asked) / len(asked[:ASKED])


def bm25(way: str, n: int, n_queries: int) -> dict[str, float]:
    "Index and search made-up text that is loaded."
    import bm25s  # noqa: F401  # imports are not measured

    from disti.retrieve import bm25_run

    texts, asked = list(zipf_texts(n, 1)), [query for query in zipf_texts(n_queries, 2, 9.0)]
    if way == "disti":
        corpus, queries = {f"d{i}": text for i, text in enumerate(texts)}, {f"q{i}": t for i, t in enumerate(asked)}
        del texts
        return measured(lambda: bm25_run(corpus, queries, 100))
    if way == "rank_bm25":
        return {"seconds": by_rank_bm25(texts, asked), "mib": 0.0, "total_mib": 0.0}
    if way.endswith("numba"):
        by_bm25s(texts[:50], asked[:5], "numba")  # compile
    return measured(lambda: by_bm25s(texts, asked, "numba" if way.endswith("numba") else "numpy"))


def child(way: str, n: int, folder: str, n_queries: int) -> dict[str, float]:
    "One measurement, in a process of its own."
    given = ["--way", way, "--passages", n, "--queries", n_queries, "--folder", folder, "--threads", options.threads]
    given += ["--clock", options.clock]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    done = subprocess.run(
        [sys.executable, __file__, *map(str, given)], env=os.environ | threads, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{way} of {n} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if options.way:
    part, _, name = options.way.partition(": ")
    one = dense(name, options.passages) if part == "dense" else bm25(name, options.passages, options.queries)
    print(json.dumps(one))
    raise SystemExit

DENSE = ["dense: disti", "dense: sentence-transformers", "dense: sentence-transformers, faiss"]
WORDS = ["bm25: disti", "bm25: bm25s", "bm25: bm25s, numba"]
RANK = "bm25: rank_bm25"
if options.quick:
    DENSE, WORDS = DENSE[:2], WORDS[:2]
for name, package in ((WORDS[-1], "numba"), (RANK, "rank_bm25")):
    if name.endswith(package) and not find_spec(package):
        print(f"{package} is not installed here, so it is not among the ways")
        WORDS, RANK = [way for way in WORDS if way != name], "" if name == RANK else RANK
found: dict[str, list[dict[str, float]]] = {}
with tempfile.TemporaryDirectory() as folder:
    jobs: list[tuple[str, int, int]] = []
    if "dense" in options.parts:
        for n in (options.passages, options.large):
            make_vectors(Path(folder), n)
    for repeat in range(options.repeats):
        for names in (DENSE if "dense" in options.parts else [], WORDS if "bm25" in options.parts else []):
            jobs += [(name, options.passages, options.queries) for name in (names[::-1] if repeat % 2 else names)]
    if "bm25" in options.parts and RANK and not options.quick:
        jobs.append((RANK, options.passages, options.queries))
    if "dense" in options.parts:
        jobs += [(name, options.large, options.queries) for name in DENSE[: 1 if options.quick else 2]]
    if "million" in options.parts:
        jobs.append(("bm25: disti", options.million, options.queries))
    for name, n, n_queries in tqdm(jobs, unit="run", disable=False):
        found.setdefault(f"{name} {n}", []).append(child(name, n, folder, n_queries))

print(f"{options.queries} queries, {options.threads} thread(s), {options.clock} clock, medians of {options.repeats}")
print(f"{'':<34}{'passages':>10}{'seconds':>10}{'MiB on top':>12}{'MiB in all':>12}")
for name, runs in found.items():
    way, n = name.rsplit(" ", 1)
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    print(f"{way:<34}{n:>10}{middle['seconds']:>10.2f}{middle['mib']:>12.0f}{middle['total_mib']:>12.0f}")


def ratio(key: str, above: str, below: str) -> float:
    "The median over the rounds."
    pairs = zip(found[f"{above} {options.passages}"], found[f"{below} {options.passages}"], strict=False)
    return round(statistics.median(a[key] / max(b[key], 1e-9) for a, b in pairs), 3)


said: dict[str, float] = {}
if "dense" in options.parts:
    said["dense_speed_ratio"] = ratio("seconds", DENSE[1], DENSE[0])
    said["dense_memory_ratio"] = ratio("mib", DENSE[0], DENSE[1])
    for way in DENSE[2:]:
        said["dense_speed_ratio_faiss"] = ratio("seconds", way, DENSE[0])
        said["dense_memory_ratio_faiss"] = ratio("mib", DENSE[0], way)
    large = found[f"{DENSE[0]} {options.large}"][0]["mib"]
    said["dense_memory_growth"] = round(large / max(1.0, found[f"{DENSE[0]} {options.passages}"][0]["mib"]), 3)
if "bm25" in options.parts:
    said["bm25_speed_ratio"] = ratio("seconds", WORDS[1], WORDS[0])
    for key, way in (("bm25_speed_ratio_numba", WORDS[-1]), ("rank_bm25_speed_ratio", RANK)):
        if f"{way} {options.passages}" in found and way not in WORDS[:2]:
            said[key] = ratio("seconds", way, WORDS[0])
if "million" in options.parts:
    said["bm25_million_gib"] = round(found[f"bm25: disti {options.million}"][-1]["total_mib"] / 1024, 2)
print(json.dumps(said))
