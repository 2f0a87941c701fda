"""How many tokens should a student read? Untrained, tuned and distilled students at several lengths, on dev queries.

    python bench/lengths.py --run artifacts/demo

One length for training and for search. `full` is InfoNCE on the labels of the run's lists; `distilled` adds KL on the
teacher's scores, on lists whose label the teacher does not contradict, as `distill` does by default. The queries are
held-out training queries of the run: a length may be chosen here, and the test be looked at once. `cut` is the share of
the passages that are longer. Two seeds; a stopped study goes on where it was. The last line is one JSON object.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from students import Demo, TimeIsUp, Values, difference, mean, parser, read_options, told

from disti.batches import list_rows, sample_negatives
from disti.records import Row
from disti.selective import by_margin

made = parser(__doc__ or "", steps=60, batch_size=32, passages=0)
made.add_argument("--lengths", nargs="+", type=int, default=[64, 96, 128, 192, 256])
options = read_options(made)
if options.tiny:
    options.lengths = [8, 32]
demo = Demo(options, "dev")
METHODS = {"full": "info_nce", "distilled": "info_nce + kl"}
clear = by_margin(demo.scored, 0.0).groups


def trained(method: str, seed: int, folder: Path) -> tuple[SentenceTransformer, Row]:
    "A student that reads as many tokens as the options say now."
    groups = sample_negatives(clear if method == "distilled" else demo.scored, options.n_negatives, seed)
    rows = list_rows(groups, demo.mined.queries, demo.mined.corpus)
    return demo.train(demo.load(), rows, METHODS[method], demo.settings(seed, lint="off"), folder)


def students(length: int) -> dict[str, list[Values]]:
    "Method → values of each seed."
    options.max_length = length
    key = {"study": "lengths", "max_length": length}
    each = {"untrained": [demo.student(key | {"method": "untrained"}, lambda _: (demo.load(), {}))]}
    for method in METHODS:
        each[method] = [
            demo.student(key | {"method": method, "seed": seed}, partial(trained, method, seed))
            for seed in options.seeds
        ]
    return each


tokens = np.array(
    [len(ids) for ids in demo.load().tokenizer([demo.test.corpus[doc] for doc in demo.kept])["input_ids"]]
)
table: dict[int, dict[str, list[Values]]] = {}
try:
    for length in options.lengths:
        table[length] = students(length)
except TimeIsUp:
    print("the budget is spent; the rest of the lengths are missing")
print(f"\nnDCG@10 of seeds {options.seeds}; {len(demo.asked)} dev queries, {len(demo.kept)} passages\n")
print("| tokens | cut | untrained | full | distilled | distilled − at the first (95 %) |\n|---|---|---|---|---|---|")
means = {}
for length, each in table.items():
    values = [" / ".join(f"{mean(value):.3f}" for value in some) for some in each.values()]
    against = told(difference(each["distilled"], next(iter(table.values()))["distilled"]))
    print(f"| {length} | {(tokens > length).mean():.0%} | {' | '.join(values)} | {against} |")
    means[length] = {name: round(float(np.mean([mean(value) for value in some])), 4) for name, some in each.items()}
print(json.dumps(means))
