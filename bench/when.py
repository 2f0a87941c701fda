"""When should I distil? The table of docs/when.md, over runs of recipes/when.yaml.

    disti pipeline when --set collection=scifact          (and others; a GPU)
    python bench/when.py scifact tatqa demo               runs below artifacts, each with its trainings full, full-1

Every student stands with the mean of its trainings. Tests pair the queries and count trainings as luck too, as those of
disti compare, and are corrected together (Holm) over all collections. The rival of the taught student is the better of
full and lora on dev. `hybrid` is the teacher itself: the fine-tuned student plus BM25, with the weight that absorb
chose on dev; it is measured here where its model is there. The last line is one JSON object.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np

from disti.absorb import hybrid_of, vectors_of
from disti.data import load_collection
from disti.decide import check_alike, decide, read_side, source_of
from disti.embeddings import teacher_digest
from disti.manifests import read_manifest
from disti.metrics import measure
from disti.models import load_student
from disti.recipe import run_recipe, value
from disti.records import Row, at, write_text
from disti.retrieve import bm25_index, choose_tokenizer
from disti.sources import clusters_of
from disti.stats import holm
from disti.weights import model_record

ROWS = {
    "bm25": "BM25",
    "untrained": "untrained",
    "hybrid": "teacher: full + BM25",
    "full": "full",
    "lora": "LoRA",
    "absorbed": "taught (absorbed)",
    "small-labels": "three layers, labels",
    "small": "three layers, taught",
}


def trainings(home: Path, name: str, folder: str = "models") -> list[str]:
    "A student's trainings that are there and of the run's recipe, not left from an earlier one: full, full-1, full-2."
    there = [path.name for path in (home / folder).iterdir() if re.fullmatch(rf"{name}(-\d+)?", path.name)]
    if recipe := run_recipe(home):
        there = [each for each in there if each in recipe["students"]]
    return sorted(there, key=lambda each: (len(each), each))


def manifest(home: Path, model: str) -> Row:
    "What a model's manifest says of it."
    return (read_manifest(home / "models" / model) or {}).get("facts", {})


def measure_hybrids(home: Path, collection: str, data: Path) -> None:
    "nDCG@10 of every test query with the teacher of each absorbed student."
    out = home / "results" / "hybrid.json"
    told = json.loads(out.read_text()) if out.exists() else {}
    recipe = run_recipe(home)
    if recipe is None:
        raise SystemExit(f"{home} has no recipe.yaml, so it is no run of a pipeline: disti pipeline when --set ...")
    if recipe.get("max_docs") or recipe.get("max_eval_queries"):
        print(f"{home.name}: its models searched a sample, so the teacher is left out")
        return
    texts = load_collection(data / "eval" / collection)
    for name in trainings(home, "absorbed"):
        facts = manifest(home, name)
        tuned = home / "models" / str(facts.get("start", ""))
        if not facts or not (tuned / "modules.json").exists():
            continue
        record = model_record(str(tuned))
        of = {"digest": record.digest, "weight": float(facts["weight"])}
        if name in told and told[name].get("of") == of:  # else it was trained again
            continue
        model = load_student(record)
        words, language = (value(recipe, "absorb", key, name) for key in ("bm25_tokenizer", "language"))
        cut = choose_tokenizer(words, language, model.tokenizer)
        index = bm25_index(texts.corpus, tokenize=cut)
        teacher = hybrid_of(model, texts, index, vectors_of(model, texts, home / "embeddings", teacher_digest(record)))
        weight = of["weight"]
        rows = measure(texts.qrels, teacher.run(texts.queries, weight=weight), ["nDCG@10"])
        told[name] = {"of": of, "weight": weight, "values": {row["query_id"]: float(row["value"]) for row in rows}}
        write_text(out, json.dumps(told))
        print(
            f"{home.name}: teacher of {name}: weight {weight}, nDCG@10 {np.mean([*told[name]['values'].values()]):.4f}",
            flush=True,
        )


class Measured:
    "What was measured of one run."

    def __init__(self, home: Path, artifacts: Path, data: Path) -> None:
        self.home, recipe = home, run_recipe(home) or {}
        self.collection = str(recipe.get("collection", home.name))
        sides = {}
        for name in ROWS:
            found = [name] if name in ("bm25", "untrained") else trainings(home, name, "results")
            found = [each for each in found if (home / "results" / each / self.collection / "measures.jsonl").exists()]
            if found:
                words = ",".join(f"{home.name}/{each}" for each in found)
                sides[name] = read_side(words, "nDCG@10", artifacts)[self.collection]
        check_alike([one for some in sides.values() for one in some], self.collection)
        self.ids = sorted(next(iter(sides.values()))[0].values)
        self.values = {
            name: np.array([[one.values[q] for q in self.ids] for one in some]) for name, some in sides.items()
        }
        hybrids = home / "results" / "hybrid.json"
        if hybrids.exists():
            told = json.loads(hybrids.read_text())
            told = [told[name]["values"] for name in trainings(home, "absorbed") if name in told]
            self.values |= {"hybrid": np.array([[each[q] for q in self.ids] for each in told])} if told else {}
        self.clusters = clusters_of(self.ids, source_of(data / "eval" / self.collection))[0]

    def rival(self) -> str:
        "The better of full and lora, on dev."
        dev = {}
        for name in [each for each in ("full", "lora") if each in self.values]:
            told = [
                manifest(self.home, each).get("dev nDCG@10 by learning rate") for each in trainings(self.home, name)
            ]
            dev[name] = float(np.mean([max(each.values()) for each in told])) if all(told) else 0.0
        if not all(dev.values()):  # the harder of the two, and said
            print(f"{self.home.name}: no rates were tried for {', '.join(dev)}, so the rival is the better one on test")
            dev = {name: float(self.values[name].mean()) for name in dev}
        return max(dev, key=dev.__getitem__)

    def pairs(self) -> list[tuple[str, str]]:
        "What is tested."
        rival = self.rival()
        asked = [("hybrid", "full"), ("absorbed", "full"), ("absorbed", rival), ("absorbed", "untrained"),
                 ("small", "small-labels"), ("small", "untrained"), ("small", "absorbed")]  # fmt: skip
        return [(a, b) for a, b in dict.fromkeys(asked) if a in self.values and b in self.values]


def tested(runs: list[Measured]) -> list[Row]:
    "Every pair of every run, corrected together."
    rows = [
        {"run": run.home.name, "a": a, "b": b} | decide(run.values[a], run.values[b], clusters=run.clusters)
        for run in runs for a, b in run.pairs()
    ]  # fmt: skip
    corrected = holm([row.get("p_seeds", row["p_randomisation"]) for row in rows])
    return [row | {"p": p} for row, p in zip(rows, corrected, strict=True)]


def said(row: Row) -> str:
    "A difference with its interval and its corrected p."
    low, high = (row.get(f"ci_{end}_seeds", row[f"ci_{end}"]) for end in ("low", "high"))
    return f"{row['delta']:+.3f} ({low:+.3f} to {high:+.3f}), p {max(row['p'], 0.0001):.2g}"


def main() -> None:
    "Print the table."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders below artifacts")
    parser.add_argument("--artifacts", default="artifacts")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--hybrids", action="store_true", help="measure the teachers only")
    asked = parser.parse_args()
    artifacts, data = at(asked.artifacts), at(asked.data_dir)
    for run in asked.runs:
        recipe = run_recipe(artifacts / run) or {}
        measure_hybrids(artifacts / run, str(recipe.get("collection", run)), data)
    if asked.hybrids:
        return
    runs = [Measured(artifacts / run, artifacts, data) for run in asked.runs]
    for name, label in ROWS.items():
        cells = [f"{run.values[name].mean():.3f} ({' '.join(f'{each:.3f}' for each in run.values[name].mean(1))})"
                 if name in run.values else "" for run in runs]  # fmt: skip
        print(f"| {label} |", " | ".join(cells), "|")
    rows = tested(runs)
    for row in rows:
        counts = f"{row['n_queries']} queries, {row['n_clusters']} sources"
        print(f"{row['run']}: {row['a']} − {row['b']}: {said(row)}; {counts}")
    print(json.dumps({f"{row['run']}: {row['a']} - {row['b']}": round(row["delta"], 4) for row in rows}))


if __name__ == "__main__":
    main()
