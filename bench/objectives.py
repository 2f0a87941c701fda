"""What does each objective do? Every loss and the mixes of the five systems, on a finished run of the demo.

    python bench/objectives.py --run artifacts/demo

One student an objective and seed, all from the same weights on the same lists, and nDCG@10 over all test queries and a
part of the corpus that holds every answer. Losses over scores read the run's teacher; losses over embeddings imitate
the student that `info_nce` made here with the same seed, which is an embedding model better than the untrained one.
Their students keep their heads. Seeds may run at once, one a process; a stopped run goes on where it was. The last line
is one JSON object.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from students import Demo, difference, mean, parser, told

from disti.align import align, new_student, stored_embeddings, teacher_digest
from disti.distill import choose_temperature
from disti.heads import add_head
from disti.losses import LOSSES
from disti.models import encode
from disti.objective import list_rows, options_for, parse_mix, sample_negatives
from disti.records import Row
from disti.selective import by_percentile

made = parser(__doc__ or "", steps=60, batch_size=16, train_length=48, passages=2000)
made.add_argument("--only", nargs="*", default=[], help="objectives; none: all")
options = made.parse_args()
demo = Demo(options)

MIXES: dict[str, tuple[str, dict[str, float]]] = {  # name → mix, options in place of the defaults
    "info_nce + kl": ("info_nce + kl", {}),
    "bge-m3: kl, label scale .2": ("kl", {"tau_teacher": 5, "tau_student": 1}),
    "bge-m3: kl, label scale .05": ("kl", {"tau_teacher": 20, "tau_student": 1}),
    "search-service": ("0.6 margin_mse + 0.2 list_net + 0.2 info_nce", {}),
    "cross-encoder-lora": (
        "kl + 0.3 contrastive_margin + 0.4 negative_penalty",
        {"tau_teacher": 0.2, "tau_student": 0.4},
    ),
}  # the last: (cos + 1)/2/.2 is cos/.4 and a constant; its teacher scores are probabilities


def rows_of(seed: int) -> list[Row]:
    "Training lists of a seed."
    return list_rows(sample_negatives(demo.scored, options.n_negatives, seed), demo.mined.queries, demo.mined.corpus)


def over_scores(mix: str, given: dict[str, float], seed: int, folder: Path) -> tuple[SentenceTransformer, Row]:
    "A student of a mix."
    rows, weights = rows_of(seed), parse_mix(mix)
    if "contrastive_margin" in weights and "kl" in weights:
        rows = [row | {"scores": [1 / (1 + math.exp(-score)) for score in row["scores"]]} for row in rows]
    wanted: dict[str, Any] = {"tau": 0.05, "tau_student": 0.05, "tau_teacher": choose_temperature(rows, 0)[0]} | given
    # the lint knows that some of these cannot reach their targets; here that is what is measured
    return demo.train(
        demo.load(), rows, weights, demo.settings(seed, lint="off"), folder, options=options_for(weights, **wanted)
    )


def imitated(seed: int) -> tuple[SentenceTransformer, str]:
    "The embedding teacher: the student that labels made."
    train = partial(over_scores, "info_nce", {}, seed)
    folder = demo.cell({"student": "info_nce", "seed": seed}, train, keep=True)["folder"]
    return demo.load(folder), folder


def aligned(steps: tuple[int, int], seed: int, folder: Path) -> tuple[SentenceTransformer, Row]:
    "A student whose embeddings imitate the teacher's: steps of phase 1 and of phase 2."
    teacher, name = imitated(seed)
    rows = rows_of(seed)
    texts = {
        "query": [row["query"] for row in rows],
        "passage": list(dict.fromkeys(text for row in rows for text in row["passages"])),
    }
    digest = teacher_digest(name, teacher)
    targets = {
        kind: stored_embeddings(teacher, own, Path(name) / f"{kind}.npy", kind=kind, digest=digest, precision="bf16")
        for kind, own in texts.items()
    }
    student = new_student(options.model, teacher.get_embedding_dimension() or 0, max_length=options.train_length)
    one, two = (demo.settings(seed, steps=n) for n in steps)
    align(
        student,
        targets,
        texts,
        rows,
        phase1=one,
        phase2=two,
        checkpoints=folder / "checkpoints",
        history=folder / "a.history.jsonl",
        fingerprint={"teacher": name},
    )
    student.max_seq_length = 64
    return student, {}


def hybrid_selective(seed: int, folder: Path) -> tuple[SentenceTransformer, Row]:
    "The fifth of the pairs that the teacher likes best, contrast and regression, a head of 256 dimensions."
    teacher, _ = imitated(seed)
    kept = by_percentile(demo.scored, 80).groups
    rows = list_rows(sample_negatives(kept, 0, seed), demo.mined.queries, demo.mined.corpus)
    pairs = {"query": [row["query"] for row in rows], "passage": [row["passages"][0] for row in rows]}
    asked, given = (encode(teacher, pairs[kind], kind=kind, precision="bf16") for kind in pairs)
    for row, score in zip(rows, (asked * given).sum(1).tolist(), strict=True):
        row["scores"] = [score] * len(row["passages"])
    student = add_head(demo.load(), "unit", 256, seed=seed)
    return demo.train(student, rows, {"hybrid": 1.0}, demo.settings(seed, lint="off"), folder)


steps = options.steps
OBJECTIVES: dict[str, Callable[[int, Path], tuple[SentenceTransformer, Row]]] = {
    **{name: partial(over_scores, name, {}) for name, loss in LOSSES.items() if loss.over != "embeddings"},
    "embedding_mse_cosine": partial(aligned, (steps, 0)),
    "info_nce_mse": partial(aligned, (0, steps)),
    **{name: partial(over_scores, *mix) for name, mix in MIXES.items()},
    "projection: both phases": partial(aligned, (steps // 2, steps - steps // 2)),
    "hybrid-selective": hybrid_selective,
}
if wrong := sorted(set(options.only) - set(OBJECTIVES)):
    raise SystemExit(f"no objective {wrong[0]!r}; choose from {', '.join(OBJECTIVES)}")

lines, deltas = [], {}
for name in options.only or OBJECTIVES:
    each = [
        demo.student({"student": name, "seed": seed}, partial(OBJECTIVES[name], seed), keep=name == "info_nce")
        for seed in options.seeds
    ]
    tests = difference(each, [demo.untrained])
    deltas[name] = round(tests["delta"], 4)
    lines.append(f"| `{name}` | " + " / ".join(f"{mean(values):.3f}" for values in each) + f" | {told(tests)} |")
print(
    f"\nnDCG@10 of seeds {options.seeds}; untrained {mean(demo.untrained):.3f}; {len(demo.asked)} queries, "
    f"{len(demo.kept)} passages, {steps} steps of {options.batch_size} lists of {options.n_negatives + 1}\n"
)
print("| objective | trained | - untrained (95 %) |\n|---|---|---|\n" + "\n".join(lines))
print(json.dumps({"untrained": round(mean(demo.untrained), 4), **deltas}))
