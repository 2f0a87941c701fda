"""A corpus with titles and the same one without: does the same come out?

    python bench/titles.py [--out FOLDER] [--plain RUN] [--tiny] [--set KEY=VALUE ...]

The demo's passages get the object's module as title, and its training pairs stay written without one, as most people's
are. A passage and its training copy must be one document whichever way it was written. Both twins run the demo recipe
up to the student `full`, without a teacher; a finished demo may stand for the one without titles (--plain demo). Shown
are how many of the mined negatives are the query's own passage, and nDCG@10. The last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from disti.metrics import mean_measures
from disti.pairs import identity
from disti.records import read_rows, write_rows


def titled(source: Path, target: Path) -> None:
    "The demo's collection with the object's module as title."
    (target / "eval" / "titled").mkdir(parents=True, exist_ok=True)
    (target / "finetune").mkdir(exist_ok=True)
    rows = [
        {"_id": row["_id"], "title": row["name"].rpartition(".")[0], "text": row["text"]}
        for row in read_rows(source / "eval" / "demo" / "corpus.jsonl", "corpus")
    ]
    write_rows(target / "eval" / "titled" / "corpus.jsonl", rows, "corpus")
    for name in ("queries", "relevance"):
        write_rows(
            target / "eval" / "titled" / f"{name}.jsonl", read_rows(source / "eval" / "demo" / f"{name}.jsonl"), name
        )
    write_rows(target / "finetune" / "titled.jsonl", read_rows(source / "finetune" / "demo.jsonl"), "finetune")


def own_passages(mined: Path, pairs: Path, corpus: Path) -> tuple[int, int]:  # lists with their own passage, lists
    "How many training lists hold the query's own passage as a negative, whatever it is called."
    texts = {row["_id"]: identity(row["text"]) for row in read_rows(corpus)}
    texts |= {row["_id"]: identity(row["text"]) for row in read_rows(mined / "corpus.jsonl") if row["_id"] not in texts}
    answers: dict[str, set[str]] = {}
    for row in read_rows(pairs):
        answers.setdefault(identity(row["anchor"]), set()).add(identity(row["positive"]))
    queries = {row["_id"]: identity(row["text"]) for row in read_rows(mined / "queries.jsonl")}
    groups = read_rows(mined / "groups.jsonl")
    own = 0
    for row in groups:
        negatives = [doc for doc, label in zip(row["doc_ids"], row["labels"], strict=True) if label <= 0]
        own += any(texts[doc] in answers[queries[row["query_id"]]] for doc in negatives)
    return own, len(groups)


MODELS = ("untrained", "full")


def disti(*words: str) -> None:
    "One command of disti, which must succeed."
    subprocess.run([sys.executable, "-m", "disti", *words], check=True)


def main() -> None:
    "Run both twins and compare."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("artifacts"), help="folder of the runs")
    parser.add_argument("--plain", default="", metavar="RUN", help="a finished run of the demo, not trained again")
    parser.add_argument("--tiny", action="store_true", help="smoke size: proves the path, its numbers mean nothing")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of both runs")
    asked = parser.parse_args()
    data = asked.out / "titles-data"
    if not Path("data/eval/demo/corpus.jsonl").exists():
        disti("demo-data")
    titled(Path("data"), data)
    found = {}
    for name, folder in (("demo", Path("data")), ("titled", data)):
        run = asked.plain if name == "demo" and asked.plain else f"titles-{name}"
        if run != asked.plain:
            words = [f"artifacts={asked.out}", f"collection={name}", f"run={run}", "students=full", *asked.set]
            words += ["scale=smoke"] * asked.tiny
            path = ["pipeline", "recipes/demo.yaml", "--data-dir", str(folder), "--until", "student_full"]
            disti(*path, "--set", *words)
            for model in MODELS:
                disti("run", "evaluate", "--variant", model, "-p", "run", run, "-p", "artifacts", str(asked.out),
                      "-p", "model_name", model)  # fmt: skip
        home = asked.out / run
        own, lists = own_passages(
            home / "hard-negative", folder / "finetune" / f"{name}.jsonl", folder / "eval" / name / "corpus.jsonl"
        )
        scores = {
            model: mean_measures(read_rows(home / "results" / model / name / "measures.jsonl"))["nDCG@10"]
            for model in MODELS
        }
        found[name] = {"own": own, "lists": lists, **scores}
        told = ", ".join(f"{model} {value:.3f}" for model, value in scores.items())
        print(f"{name:8} own passages in {own} of {lists} lists; nDCG@10: {told}")
    gains = {name: each["full"] - each["untrained"] for name, each in found.items()}
    print(
        json.dumps(
            {
                "own": found["titled"]["own"],
                "full_titled_minus_plain": round(found["titled"]["full"] - found["demo"]["full"], 4),
                "gain_titled_minus_plain": round(gains["titled"] - gains["demo"], 4),
            }
        )
    )


if __name__ == "__main__":
    main()
