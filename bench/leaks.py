"""Leaks that are planted into real collections: how many are found, and how many findings are none.

    python bench/leaks.py --data data                      # collections below data/eval and data/finetune
    python bench/leaks.py --data data --names scifact      # one of them

Half of a collection's passages, with the queries about them, are the test; the passages and queries of the other half
are the training texts. Into those go copies of test queries and passages, changed in one way each. A finding is right
when it names what was planted. Precision counts every other finding as wrong that was not there before ("alike
before"). The last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import regex

from disti.alike import UNSPACED
from disti.data import Collection, load_collection
from disti.leaks import find_leaks
from disti.pairs import group_pairs

PIECES = regex.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+\s*|\s+")
EACH = 60  # planted leaks of a kind


def pieces(text: str) -> list[str]:
    "Words with the blanks behind them; characters where a script has no blanks."
    return PIECES.findall(text)


def changed(text: str, share: float, words: list[str], pick: Random) -> str:
    "A text of which a share of the words, one at least, is another."
    cut = pieces(text)
    for place in pick.sample(range(len(cut)), max(1, round(share * len(cut)))):
        cut[place] = pick.choice(words) + " " * cut[place].endswith(" ")
    return "".join(cut)


def window(text: str, start: float, end: float) -> str:
    "A part of a text, by words."
    cut = pieces(text)
    return "".join(cut[int(start * len(cut)) : int(end * len(cut))]).strip()


def ways(others: list[str], words: list[str], pick: Random) -> dict[str, tuple[str, Callable[[str], str]]]:
    "How texts are planted: name → what leaks, and the change."

    def of_another(start: float, end: float) -> str:
        return window(pick.choice(others), start, end)

    def moved(by: float) -> Callable[[str], str]:
        return lambda text: f"{window(text, by, 1)} {of_another(0, by)}"

    def other_words(share: float) -> Callable[[str], str]:
        return lambda text: changed(text, share, words, pick)

    return {
        "query, exact": ("query", lambda text: text.upper().rstrip("?？ ") + " ?"),
        "query, 1 word of 10": ("query", other_words(0.1)),
        "query, 2 words of 10": ("query", other_words(0.2)),
        "passage, exact": ("passage", lambda text: "  ".join(text.split(" "))),
        "passage, 1 word of 20": ("passage", other_words(0.05)),
        "passage, 1 word of 10": ("passage", other_words(0.1)),
        "passage, moved by a third": ("passage", moved(1 / 3)),
        "passage, moved by half": ("passage", moved(1 / 2)),
        "passage, a part of it": ("passage", lambda text: window(text, 0.3, 0.7)),
        "passage, within another": ("passage", lambda text: f"{of_another(0, 0.5)} {text} {of_another(0.5, 1)}"),
    }


def halves(whole: Collection, pick: Random) -> tuple[Collection, list[str], list[str]]:
    "The test's half of a collection; passages and queries of the other."
    docs = list(whole.corpus)
    pick.shuffle(docs)
    kept = set(docs[: len(docs) // 2])
    ours = {q: text for q, text in whole.queries.items() if any(d in kept for d in whole.qrels.get(q, {}))}
    qrels = {q: {d: g for d, g in whole.qrels[q].items() if d in kept} for q in ours}
    test = Collection(whole.name, {d: whole.corpus[d] for d in whole.corpus if d in kept}, ours, qrels)
    asked = [text for q, text in whole.queries.items() if q not in ours]
    return test, [whole.corpus[d] for d in docs if d not in kept], asked


def measured(whole: Collection, seed: int) -> dict[str, dict[str, float]]:
    "Recall and precision of each way, on one collection."
    pick = Random(seed)
    test, others, asked = halves(whole, pick)
    words = [piece.strip() for text in test.queries.values() for piece in pieces(text) if piece.strip()]
    background = [
        {"anchor": q, "positive": text}
        for q, text in zip(asked or [f"a{n}" for n in range(len(others))], others, strict=False)
    ]
    long = [d for d, text in test.corpus.items() if len(pieces(text)) >= 40]
    result, natural = {}, {(leak["kind"], leak["eval_id"]) for leak in find_leaks(group_pairs(background), test)}
    for name, (kind, change) in ways(others, words, pick).items():
        ids = pick.sample(
            list(test.queries) if kind == "query" else long, min(EACH, len(test.queries if kind == "query" else long))
        )
        if kind == "query":
            rows = [{"anchor": change(test.queries[q]), "positive": f"p {n}"} for n, q in enumerate(ids)]
        else:
            rows = [{"anchor": f"a {n}", "positive": change(test.corpus[d])} for n, d in enumerate(ids)]
        start = time.perf_counter()
        leaks = find_leaks(group_pairs(background + rows), test)
        seconds = time.perf_counter() - start
        found = {leak["eval_id"] for leak in leaks if leak["kind"] == kind}
        right = found & set(ids)
        beside = {each for k, each in natural if k == kind} - set(ids)
        new = found - set(ids) - beside
        result[name] = {
            "planted": len(ids),
            "recall": len(right) / max(1, len(ids)),
            "precision": len(right) / max(1, len(right) + len(new)),
            "alike before": len(beside),
            "seconds": seconds,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder that holds eval/NAME")
    parser.add_argument("--names", nargs="+", default=["scifact", "medquad", "legalquad", "cmrc2018"])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    final = {}
    for name in asked.names:
        folder = Path(asked.data) / "eval" / name
        if not folder.is_dir():
            print(f"no {folder}; left out")
            continue
        made = measured(load_collection(folder), asked.seed)
        print(f"\n{name}\n{'planted':27} {'n':>4} {'recall':>7} {'precision':>10} {'alike before':>13} {'seconds':>8}")
        for way, row in made.items():
            shares = f"{row['planted']:4.0f} {row['recall']:7.2f} {row['precision']:10.2f}"
            print(f"{way:27} {shares} {row['alike before']:13.0f} {row['seconds']:8.1f}", flush=True)
        for way, row in made.items():
            final |= {f"{name}: {way}, {key}": round(row[key], 3) for key in ("recall", "precision")}
    print(json.dumps(final))


if __name__ == "__main__":
    main()
