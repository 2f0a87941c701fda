"""How near each stage of a finished run came to what its machine can do: operations, seconds, share of the limit.

    python bench/limits.py --run artifacts/demo       a run of students and teachers that were trained here, on a CPU
    python bench/limits.py --tiny                     a toy run: does it work? No figures

What a stage must compute is counted from its texts at their own lengths, padding left out: the matrices of every layer
and its attention, once for a forward pass, three times for a step of training, twice where the weights stand still (an
adapter). A stage's seconds are those of its manifest, with reading, tokenising, checkpoints and looking. The limit is
the fastest linear layer of the model's shape on one thread, measured now, times the threads that the stage had: so it
is to be run on the machine that made the run, when nothing else runs. Jobs that ran beside others shared its cores.
`optimizer` is the share of the seconds that AdamW's reading and writing would take by themselves. The last line is one
JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import flops_of, limit_of
from toy import toy_run

from disti.data import load_collection
from disti.manifests import read_manifest, stamp
from disti.models import load_student
from disti.records import read_rows, write_text
from disti.weights import run_model

SPLITS = ("train", "dev", "test")
MOVED = 28  # bytes that AdamW reads and writes a weight and step, in fp32: weight, gradient, two means


class Texts:
    "What a run read, and what it costs to read it."

    def __init__(self, home: Path, collection: Path) -> None:
        record = run_model(home)
        student = load_student(record, device="cpu")
        self.config, self.tokenizer = student[0].auto_model.config, student.tokenizer
        self.weights = sum(weight.numel() for weight in student.parameters())
        mined = load_collection(home / "hard-negative")
        told = (read_manifest(home / "models" / "teacher-0") or {}).get("facts", {})
        self.pair_length = int(told.get("tokens", 0)) or 512  # of a teacher that was trained here
        dev, test = load_collection(home / "hard-negative", split="dev"), load_collection(collection)
        self.corpus, self.queries = mined.corpus, mined.queries | dev.queries | test.queries
        self.groups = read_rows(home / "teacher-score" / "train.jsonl", "scored")  # the lists that were mined
        self.most = record.max_length
        self.lengths = dict(zip(self.corpus, self.count(list(self.corpus.values())), strict=True))
        self.asked_lengths = dict(zip(self.queries, self.count(list(self.queries.values())), strict=True))

    def count(self, texts: Sequence[str]) -> list[int]:
        "Tokens of each text, special ones included, not cut."
        return [len(ids) for ids in self.tokenizer(texts, verbose=False)["input_ids"]]

    def forward(self, lengths: Sequence[int], most: int, layers: int = 0) -> float:
        "Operations of reading texts that are cut at a length, by all layers or by some."
        part = layers / self.config.num_hidden_layers if layers else 1.0
        return part * flops_of(self.config, [min(length, most) for length in lengths])

    def lists(self, n_negatives: int, most: int, pairs: bool, layers: int = 0) -> float:
        "Operations of a list in the mean: the query and its passages, or the pairs of both."
        each = []
        for row in self.groups:
            passages = [self.lengths[doc] for doc in row["doc_ids"][: 1 + n_negatives]]
            query = self.asked_lengths[row["query_id"]]
            each.append(self.forward([query + n for n in passages] if pairs else [query, *passages], most, layers))
        return statistics.fmean(each)


def pairs_of(home: Path, texts: Texts) -> dict[str, list[int]]:  # split → tokens of each pair
    "The pairs that the teacher read."
    found: dict[str, list[int]] = {}
    for split in SPLITS:
        path = home / "teacher-score" / f"{split}.jsonl"
        rows = read_rows(path, "scored") if path.exists() else []
        found[split] = [
            texts.asked_lengths[row["query_id"]] + texts.lengths[doc] for row in rows for doc in row["doc_ids"]
        ]
    return found


def layers_of(params: Mapping[str, Any]) -> int:
    "How many layers a student has; 0: all."
    return len(str(params.get("layers", "")).split())


def work_of(stage: str, params: Mapping[str, Any], texts: Texts, home: Path) -> float:
    "Operations of a stage."
    steps, size = int(params.get("steps", 0)), int(params.get("batch_size", 0))
    if stage == "11_mine":
        return texts.forward([*texts.lengths.values(), *texts.asked_lengths.values()], texts.most)
    if stage == "12_teach":
        return 3 * steps * size * texts.lists(params["n_negatives"], texts.pair_length, pairs=True)
    if stage == "13_score":
        folds = len(list((home / "models").glob("teacher-[0-9].meta.json"))) or 1  # each reads dev and test
        each = {split: texts.forward(n, texts.pair_length) for split, n in pairs_of(home, texts).items()}
        return each["train"] + folds * (each["dev"] + each["test"])
    if stage == "16_align":
        read = statistics.fmean(texts.lengths.values())
        return 3 * steps * size * texts.forward([round(read)], texts.most, layers_of(params))
    passes = 2 if params.get("method") == "lora" else 3
    return passes * steps * size * texts.lists(params["n_negatives"], texts.most, False, layers_of(params))


def bandwidth() -> float:
    "Bytes a second that one thread copies."
    source, target, best = torch.zeros(2**26), torch.empty(2**26), float("inf")
    for _ in range(5):
        started = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - started)
    return 2 * source.numel() * 4 / best


def jobs_of(home: Path) -> dict[str, dict[str, Any]]:  # name → manifest
    "The jobs of a run that compute."
    places = {"mine": "hard-negative/groups.jsonl", "score": "teacher-score/test.jsonl"}
    places |= {path.name.removesuffix(".meta.json"): f"models/{path.name.removesuffix('.meta.json')}"
               for path in sorted((home / "models").glob("*.meta.json")) if "history" not in path.name}  # fmt: skip
    found = {name: read_manifest(home / place) for name, place in places.items()}
    stages = ("11_mine", "12_teach", "13_score", "14_distill", "15_lora", "16_align")
    own = {name: made for name, made in found.items() if made and made["params"].get("name", name) == name}
    return {name: made for name, made in own.items() if made["stage"] in stages}  # not what a job made besides


def toy(folder: Path) -> tuple[Path, Path]:
    "A toy run with the manifest of one student."
    made = toy_run(folder)
    params = {"steps": 2, "batch_size": 4, "n_negatives": 3, "threads": 1}
    write_text(made / "run" / "models" / "full" / "x", "")
    stamp(made / "run" / "models" / "full", stage="15_lora", params=params, started=time.time() - 1)
    return made / "run", made / "collection"


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="artifacts/demo", help="folder of a finished run (default: the demo's)")
parser.add_argument("--collection", default="data/eval/demo", help="folder of its collection")
parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="that the run computed in")
parser.add_argument("--tiny", action="store_true", help="a toy run: does it work? No figures")
options = parser.parse_args()
with tempfile.TemporaryDirectory() as keep:
    home, collection = toy(Path(keep)) if options.tiny else (Path(options.run), Path(options.collection))
    torch.set_num_threads(1)
    texts, jobs = Texts(home, collection), jobs_of(home)
    limit, moves = limit_of(texts.config, "cpu", options.precision), bandwidth()
    print(f"one thread: {limit / 1e9:.0f} GFLOP/s in {options.precision}, {moves / 1e9:.1f} GB/s copied")
    print(f"{'job':<16}{'TFLOP':>8}{'seconds':>9}{'GFLOP/s':>9}{'of the limit':>14}{'optimizer':>11}")
    shares: dict[str, float] = {}
    for name, made in jobs.items():
        params, seconds = made["params"], max(float(made["seconds"]), 1e-9)
        work, threads = work_of(made["stage"], params, texts, home), max(int(params.get("threads") or 1), 1)
        speed = work / seconds
        shares[name] = speed / limit / threads
        steps = int(params.get("steps", 0)) * (params.get("method") != "lora")
        written = steps * texts.weights * MOVED / moves / seconds  # of the seconds, were it bound by memory alone
        print(f"{name:<16}{work / 1e12:>8.2f}{seconds:>9.0f}{speed / 1e9:>9.0f}{shares[name]:>14.0%}{written:>11.1%}")
print(json.dumps({"limit_gflops": round(limit / 1e9, 1)} | {name: round(share, 3) for name, share in shares.items()}))
