"""What does each objective do? Every loss and the mixes of the five systems, on a finished run of the demo.

    python bench/objectives.py --run artifacts/demo

One student an objective and seed, all from the same weights on the same lists, and nDCG@10 over all test queries and a
part of the corpus that holds every answer. Losses over scores read the run's teacher; losses over embeddings imitate
the student that `info_nce` made here with the same seed, which is an embedding model better than the untrained one.
Their students keep their heads. Seeds may run at once, one a process; a stopped run goes on where it was. The last line
is one JSON object.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sentence_transformers import SentenceTransformer
from students import Demo, TimeIsUp, Values, difference, mean, parser, read_options, told

from disti.adapters import merge_adapter
from disti.align import align, new_student
from disti.batches import list_rows, sample_negatives
from disti.embeddings import stored_embeddings, teacher_digest
from disti.heads import add_head
from disti.losses import LOSSES
from disti.models import encode
from disti.records import Row
from disti.selective import by_percentile
from disti.student import adapt
from disti.weights import model_record

made = parser(__doc__ or "", steps=60, batch_size=16, passages=2000)
made.add_argument("--only", nargs="*", default=[], help="objectives; none: all")
made.add_argument("--candidates", type=int, default=8, help="passages of a list of cross-encoder-lora, as its system")
options = read_options(made)
demo = Demo(options)

MIXES: dict[str, str] = {
    "info_nce + kl": "info_nce + kl",
    "search-service": "0.6 margin_mse + 0.2 list_net + 0.2 info_nce",
    "with spread_out": "info_nce + kl + 0.05 spread_out",
}
RAW: dict[str, tuple[str, int]] = {  # objectives on the logits of the cross-encoders alone; negatives of a list
    "bge-m3: label scale .2": ("kl(label_scale=0.2, tau_student=1)", options.n_negatives),
    "bge-m3: label scale .05": ("kl(label_scale=0.05, tau_student=1)", options.n_negatives),
    "cross-encoder-lora": (
        "kl(probability=True, tau_teacher=0.2, tau_student=0.2) + 0.3 contrastive_margin + 0.4 negative_penalty",
        options.candidates - 1,
    ),
}


def rows_of(seed: int) -> list[Row]:
    "Training lists of a seed."
    return list_rows(sample_negatives(demo.scored, options.n_negatives, seed), demo.mined.queries, demo.mined.corpus)


def over_scores(objective: str, seed: int, folder: Path) -> tuple[SentenceTransformer, Row]:
    "A student of an objective on what the run's teacher says."
    # the lint knows that some of these cannot reach their targets; here that is what is measured
    return demo.train(demo.load(), rows_of(seed), objective, demo.settings(seed, lint="off"), folder)


def over_logits(
    objective: str, n_negatives: int, seed: int, folder: Path, *, lr: float = 0
) -> tuple[SentenceTransformer, Row]:
    "A student of an objective on raw logits; with a learning rate, by an adapter as in cross-encoder-lora's recipe."
    rows = list_rows(sample_negatives(demo.raw(), n_negatives, seed), demo.mined.queries, demo.mined.corpus)
    student = demo.load()
    adapt(student, "lora" if lr else "full", (32, 64, 0.1), seed)
    settings = demo.settings(seed, lint="off", **({"lr": lr} if lr else {}))
    student, facts = demo.train(student, rows, objective, settings, folder)
    return (merge_adapter(student) if lr else student), facts


def imitated(seed: int) -> tuple[SentenceTransformer, str]:
    "The embedding teacher: the student that labels made."
    train = partial(over_scores, "info_nce", seed)
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
    digest = teacher_digest(model_record(name, max_length=options.max_length))
    targets = {
        kind: stored_embeddings(teacher, own, Path(name) / f"{kind}.npy", kind=kind, digest=digest, precision="auto")
        for kind, own in texts.items()
    }
    student = new_student(options.model, teacher.get_embedding_dimension() or 0, max_length=options.max_length)
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
    return student, {}


def hybrid_selective(seed: int, folder: Path) -> tuple[SentenceTransformer, Row]:
    "The fifth of the pairs that the teacher likes best, contrast and regression, a head of 256 dimensions."
    teacher, _ = imitated(seed)
    kept = by_percentile(demo.scored, 80).groups
    rows = list_rows(sample_negatives(kept, 0, seed), demo.mined.queries, demo.mined.corpus)
    pairs = {"query": [row["query"] for row in rows], "passage": [row["passages"][0] for row in rows]}
    asked, given = (encode(teacher, pairs[kind], kind=kind, precision="auto") for kind in pairs)
    for row, score in zip(rows, (asked * given).sum(1).tolist(), strict=True):
        row["scores"] = [score] * len(row["passages"])
    student = add_head(demo.load(), "unit", 256, seed=seed)
    return demo.train(student, rows, "hybrid", demo.settings(seed, lint="off"), folder)


steps = options.steps
OBJECTIVES: dict[str, Callable[[int, Path], tuple[SentenceTransformer, Row]]] = {
    **{name: partial(over_scores, name) for name, loss in LOSSES.items() if loss.over != "embeddings"},
    "embedding_mse_cosine": partial(aligned, (steps, 0)),
    "info_nce_mse": partial(aligned, (0, steps)),
    **{name: partial(over_scores, objective) for name, objective in MIXES.items()},
    **{name: partial(over_logits, *objective) for name, objective in RAW.items()},
    **{
        f"cross-encoder-lora: adapter, lr {lr:g}": partial(over_logits, *RAW["cross-encoder-lora"], lr=lr)
        for lr in (2e-4, 1e-3)
    },
    **{
        f"cross-encoder-lora: {name}, adapter": partial(
            over_logits, RAW["cross-encoder-lora"][0].partition(" + ")[0] + more, options.candidates - 1, lr=2e-4
        )
        for name, more in (
            ("its KL alone", ""),
            ("targets in reach", " + 0.3 contrastive_margin(target=0.53) + 0.4 negative_penalty(limit=0.47)"),
        )
    },
    "projection: both phases": partial(aligned, (steps // 2, steps - steps // 2)),
    "hybrid-selective": hybrid_selective,
}
if wrong := sorted(set(options.only) - set(OBJECTIVES)):
    raise SystemExit(f"no objective {wrong[0]!r}; choose from {', '.join(OBJECTIVES)}")

if options.prepare:
    raise SystemExit(f"{len(demo.raw())} lists with logits")
table: dict[str, list[Values]] = {}
try:
    for name in options.only or OBJECTIVES:
        make, keep = OBJECTIVES[name], name == "info_nce"
        table[name] = [
            demo.student({"student": name, "seed": seed}, partial(make, seed), keep=keep) for seed in options.seeds
        ]
except TimeIsUp:
    print("the budget is spent; the rest of the objectives are missing")
    options.budget = 0  # the row that all are compared with
lines, deltas = [], {}
for name, each in table.items():
    tests = difference(each, [demo.untrained])
    deltas[name] = round(tests["delta"], 4)
    lines.append(f"| `{name}` | " + " / ".join(f"{mean(values):.3f}" for values in each) + f" | {told(tests)} |")
print(
    f"\nnDCG@10 of seeds {options.seeds}; untrained {mean(demo.untrained):.3f}; {len(demo.asked)} queries, "
    f"{len(demo.kept)} passages, {steps} steps of {options.batch_size} lists of {options.n_negatives + 1}\n"
)
print("| objective | trained | - untrained (95 %) |\n|---|---|---|\n" + "\n".join(lines))
print(json.dumps({"untrained": round(mean(demo.untrained), 4), **deltas}))
