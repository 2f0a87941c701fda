"A collection and a finished run of toy size, so that every study beside this file can be tried in seconds: `--tiny`."

import json
from pathlib import Path

from disti.crossencoders import new_cross_encoder
from disti.data import write_collection
from disti.models import save_student
from disti.records import write_rows, write_text
from disti.tiny import tiny_encoder
from disti.weights import model_record, write_model

VERBS = "open close read write sort reverse join split".split()
NOUNS = "socket file array list table index path string".split()
MORE = "It takes one {n} and returns a new value. An error is raised where there is nothing to {v} in the {n}."


def toy_run(folder: Path) -> Path:  # holds model, collection, finetune.jsonl and run
    "Passages that name an action and a thing, queries that ask for both, a teacher that sees half of it in the others."
    corpus = {f"{v}-{n}": f"{v.title()} the {n} that is given. {MORE.format(v=v, n=n)}" for v in VERBS for n in NOUNS}
    queries = {f"q-{doc}": f"how do I {doc.replace('-', ' a ')}" for doc in corpus}
    answer = {query: {query[2:]: 1.0} for query in queries}
    names = sorted(queries, key=lambda query: (hash_of(query), query))
    splits = {"test": names[:12], "dev": names[12:20], "": names[20:]}
    groups = []
    for query in splits[""]:
        verb, noun = query[2:].split("-")
        near = [doc for doc in corpus if doc != query[2:] and (doc.startswith(f"{verb}-") or doc.endswith(f"-{noun}"))]
        found = [query[2:], *sorted(near, key=hash_of)[:7]]
        groups.append(
            {
                "query_id": query,
                "doc_ids": found,
                "labels": [1.0] + [0.0] * 7,
                "miner": "toy",
                "scores": [3.0] + [1.0 - 0.3 * place for place in range(7)],
                "scorer": "toy",
                "component": query,
            }
        )
    pairs = [{"anchor": queries[query], "positive": corpus[query[2:]]} for query in splits[""]]
    write_rows(folder / "finetune.jsonl", pairs, "finetune")
    run, test = folder / "run", {query: answer[query] for query in splits["test"]}
    write_collection(
        folder / "collection", corpus=corpus, queries={query: queries[query] for query in test}, qrels=test
    )
    for split in ("", "dev"):
        part = {query: answer[query] for query in splits[split]}
        write_collection(
            run / "hard-negative",
            corpus=None if split else corpus,
            queries={query: queries[query] for query in part},
            qrels=part,
            split=split,
        )
    write_rows(run / "teacher-score" / "train.jsonl", groups, "scored")
    ledger = [
        {"query_id": row["query_id"], "doc_id": doc, "rank": place, "score": 9.0 - place, "miner": "bm25"}
        | {"kept": place > 1, "rule": "positive" if place == 1 else "kept"}
        for row in groups
        for place, doc in enumerate(row["doc_ids"], 1)
    ]
    write_rows(run / "hard-negative" / "ledger.jsonl", ledger, "ledger")
    model = tiny_encoder(folder / "model", [*corpus.values(), *queries.values()])
    write_model(run / "hard-negative" / "model.json", model_record(model, max_length=32))
    for fold in range(2):
        save_student(new_cross_encoder(model, max_length=64, seed=fold), run / "models" / f"teacher-{fold}")
    members = [{"name": "reranker", "weight": 1.0, "mean": 0.0, "std": 1.0}]
    write_text(run / "teacher-score" / "teacher.json", json.dumps({"members": members}))
    return folder


def hash_of(name: str) -> int:
    "A number that looks random and is the same everywhere."
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 9973
