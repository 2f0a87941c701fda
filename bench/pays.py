"""Does distilling pay? Distilled students beside fine-tuning on the same lists, where labels are good, bad or missing.

    python bench/pays.py --run artifacts/demo

Four conditions, on a finished run of the demo: its labels as they are; 30 % of them moved to a wrong passage of their
list; no labels at all, but pseudo-queries (a sentence taken out of a passage of the collection that is searched, the
rest of which is the passage to find); and a student of three layers. In each, `full` is InfoNCE on the labels there
are, `distilled` adds KL on the teacher's scores, `kl` has only those, `selective` is `distilled` without the lists
whose label the teacher contradicts. The teacher is the run's own, which learnt from clean labels of queries that are
neither searched nor tested, as a bought reranker would; "noise, teacher too" trains another on the noise. Two seeds,
paired tests over the test queries. A stopped study goes on where it was. The last line is one JSON object.
"""

import json
import re
from functools import cache, partial
from pathlib import Path
from random import Random

from sentence_transformers import SentenceTransformer
from students import Demo, TimeIsUp, Values, difference, mean, mean_values, parser, read_options, told

from disti.align import align
from disti.batches import list_rows, sample_negatives
from disti.data import seeded_order
from disti.ensemble import Mixture, ensemble, mean_of
from disti.heads import keep_layers
from disti.models import encode
from disti.negatives import Wish, bm25_miner, build_groups, dense_miner, mine_negatives, remembered
from disti.records import Row, read_rows, write_rows
from disti.scorers import bm25_scorer, cross_encoder
from disti.selective import by_margin
from disti.stats import verdict
from disti.teach import train_teacher, training_groups
from disti.teacher import fit_teacher, judged_lists, score_groups, score_out_of_fold
from disti.training import Fit

made = parser(__doc__ or "", steps=60, batch_size=32, passages=0)
made.add_argument("--noise", type=float, default=0.3, help="share of the labels that are moved")
made.add_argument("--pseudo", type=int, default=2000, help="pseudo-queries")
made.add_argument("--layers", nargs="+", type=int, default=[0, 2, 5], help="of the small student")
made.add_argument("--teacher-steps", type=int, default=60, help="of the teacher that learns from noise")
made.add_argument("--only", nargs="*", default=[], help="conditions; none: all")
options = read_options(made)
if options.tiny:
    options.layers, options.pseudo, options.teacher_steps = [0], 16, 2
demo = Demo(options)
METHODS = {"full": "info_nce", "distilled": "info_nce + kl", "kl": "kl", "selective": "info_nce + kl"}
Lists = tuple[list[Row], dict[str, str], dict[str, str]]  # scored rows, queries, corpus


def clean() -> Lists:
    "The run's own."
    return demo.scored, demo.mined.queries, demo.mined.corpus


def moved(row: Row) -> Row:
    "A list whose label is on one of its negatives, with a chance of `--noise`."
    random = Random(f"noise {row['query_id']}")
    negatives = [i for i, label in enumerate(row["labels"]) if label <= 0]
    if not negatives or random.random() >= options.noise:
        return row
    wrong = random.choice(negatives)
    return row | {"labels": [float(i == wrong) for i in range(len(row["labels"]))]}


def noise() -> Lists:
    "Some labels moved, the run's teacher."
    return [moved(row) for row in demo.scored], demo.mined.queries, demo.mined.corpus


def noise_teacher_too() -> Lists:
    "Some labels moved, and a teacher, out of fold, that learnt from them; so did its weight beside BM25."
    file, (groups, queries, corpus) = demo.out / f"noisy-{options.noise}-{options.teacher_steps}.jsonl", noise()
    if not file.exists():
        groups = [{key: value for key, value in row.items() if key not in ("scores", "scorer")} for row in groups]
        settings = Fit(steps=options.teacher_steps, batch_size=12, report_to="none")
        folds = []
        for fold in range(2):
            folder = demo.out / f"{file.stem}-teacher-{fold}"
            if not folder.exists():
                kept = training_groups(groups, fold=fold, n_folds=2, seed=0)
                teacher, _ = train_teacher(
                    kept,
                    queries,
                    corpus,
                    model=options.model,
                    settings=settings,
                    checkpoints=demo.out / f"{folder.name}.checkpoints",
                    history=demo.out / f"{folder.name}.history.jsonl",
                )
                teacher.save_pretrained(str(folder))
            folds.append(cross_encoder(folder, precision="auto"))
        lists = judged_lists(groups, read_rows(demo.home / "hard-negative" / "ledger.jsonl"))
        each = fit_teacher(folds, bm25_scorer(corpus), lists, queries, corpus).each
        write_rows(file, score_out_of_fold(each, groups, queries, corpus), "scored")
    return read_rows(file, "scored"), queries, corpus


def pseudo_query(doc_id: str, text: str) -> tuple[str, str] | None:  # query, the passage without it
    "A sentence of 5 to 30 words taken out of a passage that keeps at least as many words as it loses."
    sentences = re.split(r"(?<=[.!?;:])\s+", text)
    fair = [
        i
        for i, each in enumerate(sentences)
        if 5 <= len(each.split()) <= 30 and 2 * len(each.split()) <= len(text.split())
    ]
    if not fair:
        return None
    taken = Random(f"pseudo {doc_id}").choice(fair)
    return sentences[taken].rstrip(".;:"), " ".join(sentences[:taken] + sentences[taken + 1 :])


def pseudo() -> Lists:
    "Sentences of the searched passages as queries, mined and scored; without any label of a person."
    corpus, queries = dict(demo.test.corpus), {}
    for doc_id in sorted(corpus, key=lambda doc: seeded_order(doc, 1)):
        if len(queries) < options.pseudo and (cut := pseudo_query(doc_id, corpus[doc_id])):
            queries[f"of {doc_id}"], corpus[doc_id] = cut
    file = demo.out / f"pseudo-{options.pseudo}.jsonl"
    if not file.exists():
        qrels = {query: {query[3:]: 1.0} for query in queries}
        model = demo.load()
        vectors = encode(model, list(corpus.values()), precision="auto")
        embed = remembered(partial(encode, model, kind="query"))
        miners = {"bm25": bm25_miner(corpus), "dense": dense_miner(embed, list(corpus), vectors)}
        picks, _ = mine_negatives(
            miners,
            {"bm25": Wish(3), "dense": Wish(3)},
            queries,
            qrels,
            answers={query: set(docs) for query, docs in qrels.items()},
        )
        members = json.loads((demo.home / "teacher-score" / "teacher.json").read_text(encoding="utf-8"))["members"]
        mixture = Mixture(*(tuple(member[key] for member in members) for key in ("weight", "mean", "std")))
        folds = [cross_encoder(demo.home / "models" / f"teacher-{k}", precision="auto") for k in range(2)]
        teacher = ensemble([mean_of(folds), bm25_scorer(corpus)][: len(members)], mixture, "teacher")
        write_rows(file, score_groups(teacher, build_groups(qrels, picks), queries, corpus), "scored")
    return read_rows(file, "scored"), queries, corpus


CONDITIONS = {
    "clean labels": clean,
    "30 % noise": noise,
    "noise, teacher too": noise_teacher_too,
    "pseudo-queries": pseudo,
    "3 layers": clean,
}
lists = {condition: cache(make) for condition, make in CONDITIONS.items()}


def base(condition: str) -> SentenceTransformer:
    "What a student starts from."
    student = demo.load()
    return keep_layers(student, options.layers) if condition == "3 layers" else student


def trained(condition: str, method: str, seed: int, folder: Path) -> tuple[SentenceTransformer, Row]:
    "One student."
    scored, queries, corpus = lists[condition]()
    if method == "selective":
        scored = by_margin(scored, 0.0).groups or scored  # a toy teacher may contradict every label
    rows = list_rows(sample_negatives(scored, options.n_negatives, seed), queries, corpus)
    settings = demo.settings(seed, lint="warn")  # of pseudo-labels the teacher thinks little
    return demo.train(base(condition), rows, METHODS[method], settings, folder)


def imitated(seed: int, folder: Path) -> tuple[SentenceTransformer, Row]:
    "The small student, its embeddings taught by the full-sized one that labels made."
    key = {"condition": "clean labels", "method": "full", "seed": seed}
    name = demo.cell(key, partial(trained, "clean labels", "full", seed), keep=True)["folder"]
    teacher, student = demo.load(name), base("3 layers")
    scored, queries, corpus = clean()
    rows = list_rows(sample_negatives(scored, options.n_negatives, seed), queries, corpus)
    texts = {
        "query": [row["query"] for row in rows],
        "passage": list(dict.fromkeys(text for row in rows for text in row["passages"])),
    }
    targets = {kind: encode(teacher, own, kind=kind, precision="auto") for kind, own in texts.items()}
    settings = demo.settings(seed, batch_size=options.batch_size * (options.n_negatives + 2))  # as many texts a step
    align(
        student,
        targets,
        texts,
        rows,
        phase1=settings,
        phase2=demo.settings(seed, steps=0),
        checkpoints=folder / "checkpoints",
        history=folder / "a.history.jsonl",
    )
    return student, {}


def start(condition: str) -> Values:
    "The untrained student of a condition."
    if condition != "3 layers":
        return demo.untrained
    return demo.student({"student": "untrained", "layers": options.layers}, lambda _: (base(condition), {}))


def students(condition: str) -> dict[str, list[Values]]:
    "Method → values of each seed."
    each = {}
    last = "imitated" if condition == "3 layers" else "selective"
    for method in [*list(METHODS)[:3], last]:
        make = imitated if method == "imitated" else partial(trained, condition, method)
        keep = (condition, method) == ("clean labels", "full")
        each[method] = [
            demo.student({"condition": condition, "method": method, "seed": seed}, partial(make, seed), keep=keep)
            for seed in options.seeds
        ]
    return each


if wrong := sorted(set(options.only) - set(CONDITIONS)):
    raise SystemExit(f"no condition {wrong[0]!r}; choose from {', '.join(CONDITIONS)}")
lines, verdicts, deltas = [], [], {}
filtered: list[tuple[Values, Values]] = []  # of each condition: selective and distilled, means of seeds
made_so_far: dict[str, tuple[dict[str, list[Values]], Values]] = {}
if options.prepare:
    for condition in options.only or CONDITIONS:
        print(f"{condition}: {len(lists[condition]()[0])} lists")
    raise SystemExit
try:
    for condition in options.only or CONDITIONS:
        made_so_far[condition] = students(condition), start(condition)
except TimeIsUp:
    print("the budget is spent; the rest of the conditions are missing")
for condition, (each, untrained) in made_so_far.items():
    for method, values in each.items():
        seeds = " / ".join(f"{mean(value):.3f}" for value in values)
        against = "" if method == "full" else told(difference(values, each["full"]))
        lines.append(f"| {condition} | {method} | {seeds} | {told(difference(values, [untrained]))} | {against} |")
        if against:
            tests = difference(values, each["full"])
            verdicts.append(f"{condition}, {method} against full: {verdict(tests)}")
            deltas[f"{condition}: {method} - full"] = round(tests["delta"], 4)
    if "selective" in each:
        filtered.append((mean_values(each["selective"]), mean_values(each["distilled"])))
        kept = by_margin(lists[condition]()[0], 0.0).facts
        tests = difference(each["selective"], each["distilled"])
        verdicts.append(
            f"{condition}, selective against distilled: {told(tests)}, p {tests['p_randomisation']:.4f}; "
            f"{kept['lists_kept']} of {kept['lists']} lists kept"
        )
if filtered:
    both = [mean_values(side) for side in zip(*filtered, strict=True)]
    tests = difference(both[:1], both[1:])
    verdicts.append(
        f"mean of {len(filtered)} conditions, selective against distilled: {told(tests)}, "
        f"p {tests['p_randomisation']:.4f}"
    )
    deltas["selective - distilled"] = round(tests["delta"], 4)
print(f"\nnDCG@10 of seeds {options.seeds}; {len(demo.asked)} queries, {len(demo.kept)} passages\n")
print("| condition | method | trained | - untrained (95 %) | - full (95 %) |\n|---|---|---|---|---|")
print("\n".join(lines))
print("\n" + "\n".join(verdicts))
print(json.dumps(deltas))
