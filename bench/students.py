"""Students on a finished run of the demo, for the studies beside this file: each is trained once, measured by nDCG@10
of every query, and kept in a file, so that a stopped study goes on where it was and several may run at once."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from toy import toy_run
from transformers.utils import logging

from disti.data import load_collection, seeded_order
from disti.dense import dense_run
from disti.metrics import measure
from disti.models import encode, load_student, save_student
from disti.records import Row, file_hash, read_rows, text_id, write_rows, write_text
from disti.scorers import cross_encoder
from disti.stats import paired_tests
from disti.teacher import score_out_of_fold
from disti.training import Fit, fit
from disti.weights import model_record, run_model

Values = Mapping[str, float]  # query id → nDCG@10
Train = Callable[[Path], tuple[SentenceTransformer, Row]]  # a folder to work in → the student and facts
TINY = {"seeds": [0], "steps": 2, "batch_size": 4, "max_length": 32, "passages": 0, "queries": 0, "lists": 0}


class TimeIsUp(Exception):
    "The next student would start after `--budget`; what is done is in its files, and the tables are of it."


def parser(text: str, *, steps: int, batch_size: int, passages: int) -> argparse.ArgumentParser:
    "The options of every study, with its own sizes."
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--run", default="artifacts/demo", help="folder of a finished run")
    made.add_argument("--collection", default="data/eval/demo", help="folder of the collection that is the test")
    made.add_argument("--out", default="artifacts/bench/students", help="folder of students that are done, a file each")
    made.add_argument("--model", default="", help="the untrained student; default: the run's, with its prompts")
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    made.add_argument("--steps", type=int, default=steps)
    made.add_argument("--batch-size", type=int, default=batch_size, help="lists a step")
    made.add_argument("--n-negatives", type=int, default=3, help="of a list, as in the demo")
    made.add_argument(
        "--max-length", type=int, default=0, help="tokens of a text, in training and search; 0: the run's"
    )
    made.add_argument("--passages", type=int, default=passages, help="of the corpus, answers included; 0: all")
    made.add_argument("--queries", type=int, default=0, help="test queries; 0: all")
    made.add_argument("--lists", type=int, default=0, help="training lists; 0: all")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--device", default="", help="cpu, cuda; default: a GPU if there is one")
    made.add_argument("--budget", type=float, default=0, help="seconds after which no student is begun; 0: all of them")
    made.add_argument("--prepare", action="store_true", help="only make the lists that need the run's teachers")
    made.add_argument("--tiny", action="store_true", help="a toy run and two steps: does the study work? No figures")
    return made


def read_options(made: argparse.ArgumentParser) -> argparse.Namespace:
    "The options; with --tiny, of a toy run in a folder that is removed at the end."
    options = made.parse_args()
    options.started = time.perf_counter()
    if options.tiny:
        options.place = tempfile.TemporaryDirectory()
        folder = toy_run(Path(options.place.name))
        paths = {name: str(folder / name) for name in ("run", "collection", "out")} | {"model": ""}
        vars(options).update(TINY | paths)
    return options


class Demo:
    "A finished run: its lists, its test, and the students that studies make of it."

    def __init__(self, options: argparse.Namespace, split: str = "") -> None:  # split: "dev" searches for dev queries
        torch.set_num_threads(options.threads)
        logging.set_verbosity_error()
        self.options, self.home, self.out = options, Path(options.run), Path(options.out)
        self.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.record = model_record(options.model) if options.model else run_model(self.home)
        options.model, options.max_length = self.record.name, options.max_length or self.record.max_length
        scores = self.home / "teacher-score" / "train.jsonl"
        self.mined = load_collection(self.home / "hard-negative")
        self.test = load_collection(self.home / "hard-negative" if split else Path(options.collection), split=split)
        self.scored = read_rows(scores, "scored")[: options.lists or None]
        self.asked = sorted(self.test.qrels, key=lambda query: seeded_order(query, 0))[: options.queries or None]
        answers = {doc for query in self.asked for doc in self.test.qrels[query]}
        others = sorted(set(self.test.corpus) - answers, key=lambda doc: seeded_order(doc, 0))
        room = max(options.passages - len(answers), 0) if options.passages else None
        self.kept = sorted(answers) + others[:room]
        named = ("model", "steps", "batch_size", "n_negatives", "max_length")
        self.sizes = {name: getattr(options, name) for name in named}
        self.sizes |= {
            "passages": len(self.kept),
            "queries": len(self.asked),
            "lists": len(self.scored),
            "scores": file_hash(scores)[:23],
            "split": split or "test",
            "device": self.device,
        }

    @cached_property
    def untrained(self) -> Values:
        "Of the student as it comes."
        return self.student({"student": "untrained"}, lambda _: (self.load(), {}))

    def raw(self) -> list[Row]:
        "The run's lists with the logits of its cross-encoders, out of fold, instead of what was mixed of them."
        file = self.out / f"raw-{self.sizes['scores'][-12:]}-{len(self.scored)}.jsonl"
        if not file.exists():
            folders = sorted((self.home / "models").glob("teacher-[0-9]"))
            folds = [cross_encoder(folder, precision="auto") for folder in folders]
            write_rows(file, score_out_of_fold(folds, self.scored, self.mined.queries, self.mined.corpus), "scored")
        return read_rows(file, "scored")

    def ndcg(self, student: SentenceTransformer) -> Values:
        "nDCG@10 of every query over the kept passages."
        passages = encode(student, [self.test.corpus[doc] for doc in self.kept], precision="auto")
        queries = encode(student, [self.test.queries[query] for query in self.asked], kind="query", precision="auto")
        run = dense_run(queries, passages, self.asked, self.kept, 10)
        rows = measure({query: self.test.qrels[query] for query in self.asked}, run, ["nDCG@10"])
        return {row["query_id"]: row["value"] for row in rows}

    def cell(self, key: Row, train: Train, *, keep: bool = False) -> Row:
        "A student's row: key, facts, nDCG@10 by query; trained in a folder when there is no file of that key."
        key = self.sizes | key
        name = text_id(json.dumps(key, sort_keys=True))
        file, kept = self.out / f"{name}.json", self.out / name
        if file.exists() and (kept.exists() or not keep):
            return json.loads(file.read_text(encoding="utf-8")) | {"folder": str(kept)}
        started = time.perf_counter()
        if self.options.budget and started - self.options.started > self.options.budget:
            raise TimeIsUp
        with tempfile.TemporaryDirectory() as folder:
            student, facts = train(Path(folder))
        values = self.ndcg(student)
        if keep:
            save_student(student, kept, replace(self.record, max_length=self.options.max_length))
        row = key | facts | {"seconds": round(time.perf_counter() - started, 1), "nDCG@10": dict(values)}
        write_text(file, json.dumps(row))
        told = ", ".join(f"{name} {value}" for name, value in key.items() if name not in self.sizes)
        print(f"{told}: nDCG@10 {np.mean(list(values.values())):.4f} ({row['seconds']:.0f} s)", flush=True)
        return row | {"folder": str(kept)}

    def student(self, key: Row, train: Train, *, keep: bool = False) -> Values:
        "The values of `cell`."
        return self.cell(key, train, keep=keep)["nDCG@10"]

    def settings(self, seed: int, **more: Any) -> Fit:
        "How all students are trained."
        sizes = {"steps": self.options.steps, "batch_size": self.options.batch_size} | more
        return Fit(seed=seed, checkpoint_steps=10 * max(sizes["steps"], 1), report_to="none", **sizes)

    def load(self, model: str | Path = "") -> SentenceTransformer:
        "A student as it comes: the untrained one."
        return load_student(model or self.record, max_length=self.options.max_length, device=self.device)

    def train(
        self,
        student: SentenceTransformer,
        rows: Sequence[Row],
        objective: str,
        settings: Fit,
        folder: Path,
        *,
        loss: nn.Module | None = None,
    ) -> tuple[SentenceTransformer, Row]:
        "`fit`, and what its history says."
        history = fit(
            student,
            rows,
            objective,
            settings,
            loss=loss,
            checkpoints=folder / "checkpoints",
            history=folder / "history.jsonl",
        )
        shares = {
            name: round(float(np.mean([row["shares"][name] for row in history])), 3)
            for name in history[0].get("shares", {})
        }
        return student, {"first_loss": history[0]["loss"], "last_loss": history[-1]["loss"], "shares": shares}


def mean_values(each: Sequence[Values]) -> Values:
    "Mean over students, query by query."
    return {query: float(np.mean([values[query] for values in each])) for query in each[0]}


def difference(ours: Sequence[Values], theirs: Sequence[Values]) -> dict[str, float]:  # of `paired_tests`
    "Paired tests of the means over seeds."
    a, b = mean_values(ours), mean_values(theirs)
    return paired_tests(list(a.values()), [b[query] for query in a])


def mean(values: Values) -> float:
    "nDCG@10 over all queries."
    return float(np.mean(list(values.values())))


def told(tests: Mapping[str, float]) -> str:
    "A difference with its interval."
    return f"{tests['delta']:+.3f} ({tests['ci_low']:+.3f} to {tests['ci_high']:+.3f})"
