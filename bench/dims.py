"""What is lost when an embedding is cut to its first dimensions, with and without training for it (Matryoshka)?

    python bench/dims.py --run artifacts/demo

On a finished run of the demo: the untrained student, one tuned by InfoNCE on the run's lists, and one tuned by the same
objective on several lengths at once (`Fit.dims`), each searched with whole and with cut embeddings. Two seeds, paired
tests over the test queries. A stopped study goes on where it was. The last line is one JSON object.
"""

import json
from pathlib import Path

from sentence_transformers import SentenceTransformer
from students import Demo, Values, difference, mean, parser, read_options, told

from disti.batches import list_rows, sample_negatives
from disti.heads import truncated
from disti.records import Row

made = parser(__doc__ or "", steps=60, batch_size=16, passages=0)
made.add_argument("--dims", nargs="+", type=int, default=[384, 128, 64, 32], help="lengths, trained and searched")
options = read_options(made)
if options.tiny:
    options.dims = [32, 8]
demo = Demo(options)
queries, corpus = demo.mined.queries, demo.mined.corpus


def tuned(seed: int, dims: tuple[int, ...], folder: Path) -> tuple[SentenceTransformer, Row]:
    "InfoNCE on the run's lists."
    rows = list_rows(sample_negatives(demo.scored, options.n_negatives, seed), queries, corpus)
    return demo.train(demo.load(), rows, "info_nce", demo.settings(seed, dims=dims), folder)


def cut(name: str, key: Row, source: str, size: int) -> Values:
    "A student's values with embeddings of a length."
    row = {"student": name, **key, "cut": size}
    return demo.student(row, lambda _: (truncated(demo.load(source), size), {}))


sources: dict[str, list[tuple[Row, str]]] = {
    "untrained": [({}, options.model)],
    "tuned": [],
    "tuned at all lengths": [],
}
for seed in options.seeds:
    for name, dims in (("tuned", ()), ("tuned at all lengths", tuple(options.dims))):
        row = demo.cell(
            {"study": "dims", "dims": list(dims), "seed": seed},
            lambda folder, seed=seed, dims=dims: tuned(seed, dims, folder),
            keep=True,
        )
        sources[name].append(({"seed": seed, "dims": list(dims)}, row["folder"]))

print(f"\nnDCG@10 of seeds {options.seeds}; {len(demo.asked)} queries, {len(demo.kept)} passages\n")
print("| dimensions | untrained | tuned | tuned at all lengths | the last − tuned (95 %) |\n|---|---|---|---|---|")
deltas = {}
for size in options.dims:
    each = {name: [cut(name, key, folder, size) for key, folder in some] for name, some in sources.items()}
    values = [" / ".join(f"{mean(value):.3f}" for value in some) for some in each.values()]
    tests = difference(each["tuned at all lengths"], each["tuned"])
    print(f"| {size} | {' | '.join(values)} | {told(tests)} |", flush=True)
    deltas[str(size)] = round(tests["delta"], 4)
print(json.dumps(deltas))
