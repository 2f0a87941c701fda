"""From documents alone: written queries → filter → mining → teacher → student, against untrained on real queries.

    python bench/documents.py --collections demo --writers phrases --seeds 0      the cheapest: half an hour on 2 cores
    python bench/documents.py --collections demo scifact --writers phrases lm --seeds 0 1 --data-dir ../shared/data
    python bench/documents.py --tiny                                                  does it work? A few minutes

The training queries of a collection are not read. `phrases` writes without a model, `lm` asks a chat server, for which
bench/small_lm_server.py must run (another: --url, --llm). Each combination is a run of its own, artifacts/documents-*,
and goes on where it was; a run that is finished is only read. The last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

from disti.records import at, read_rows

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--collections", nargs="+", default=["demo"])
parser.add_argument("--writers", nargs="+", default=["phrases"], choices=["phrases", "lm"])
parser.add_argument("--seeds", nargs="+", type=int, default=[0])
parser.add_argument("--data-dir", default="data", help="folder that holds eval/; the demo's is always made in data")
parser.add_argument("--passages", type=int, default=600, help="passages that queries are written for")
parser.add_argument("--steps", type=int, default=40, help="of teachers and students")
parser.add_argument("--url", default="http://127.0.0.1:8011/v1")
parser.add_argument("--llm", default="smollm2-135m-instruct")
parser.add_argument("--cores", type=int, default=2)
parser.add_argument("--tiny", action="store_true", help="scale smoke: the figures mean nothing")
options = parser.parse_args()


def words(collection: str, writer: str, seed: int, run: str) -> list[str]:
    "The call of one run."
    sets: dict[str, Any] = {"collection": collection, "run": run, "seed": seed, "students": "distilled full"}
    if writer == "lm":
        sets |= {"synthesize.how": "chat", "synthesize.url": options.url, "synthesize.llm": options.llm}
        sets |= {"synthesize.passage_words": 60, "synthesize.max_tokens": 24, "synthesize.concurrency": 1}
    if options.tiny:
        sets |= {"scale": "smoke"}
    else:
        sets |= {"steps": options.steps, "teach.steps": options.steps, "synthesize.max_passages": options.passages}
        sets |= {"max_length": 64, "pair_length": 96, "max_queries": 1000, "mine.depth": 10}
    folder = "data" if collection == "demo" else options.data_dir
    given = [f"{key}={value}" for key, value in sets.items()]
    return [sys.executable, "-m", "disti", "pipeline", "documents", "--cores", str(options.cores), "--data-dir", folder,
            "--set", *given]  # fmt: skip


def figures(run: str) -> dict[str, Any]:
    "What a finished run found."
    home = at("artifacts") / run
    compared = json.loads((home / "results" / "comparison.json").read_text(encoding="utf-8"))
    ledger = read_rows(home / "synthetic" / "ledger.jsonl")
    scores = {row["model"]: row["nDCG@10"] for row in compared["rows"]}
    found = {"queries": compared["rows"][0]["n_queries"], "drafts": len(ledger)}
    found["kept"] = round(sum(row["kept"] for row in ledger) / len(ledger), 3)
    found["refused"] = dict(Counter(row["rule"] for row in ledger if not row["kept"]).most_common())
    for test in compared["tests"]:
        if test["measure"] == "nDCG@10" and test["b"] == "untrained":
            found[f"{test['a']} - untrained"] = [round(test[key], 3) for key in ("delta", "ci_low", "ci_high")]
    return found | {model: round(score, 3) for model, score in scores.items()}


def main() -> None:
    "Run what is not finished, and show all."
    made: dict[str, dict[str, Any]] = {}
    for collection, writer, seed in product(options.collections, options.writers, options.seeds):
        run = f"documents-{collection}-{writer}-{seed}" + "-smoke" * options.tiny
        if not Path(at("artifacts") / run / "results" / "report.html.meta.json").exists():
            done = subprocess.run(words(collection, writer, seed, run))
            if done.returncode:
                print(f"{run} stopped; the same command goes on from there", flush=True)
                continue
        made[run] = figures(run)
        print(run, *(f"  {key}: {value}" for key, value in made[run].items()), sep="\n", flush=True)
    print(json.dumps(made))
    sys.exit(0 if made else 1)


if __name__ == "__main__":
    main()
