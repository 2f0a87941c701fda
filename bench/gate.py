"""How often the gate is wrong: simulated comparisons of models that are equally good, and of one that is better.

    python bench/gate.py                # 2 000 comparisons without a difference, 1 000 with one, of every kind
    python bench/gate.py --tiny         # a few of each, to see that it runs

The values are those of questions with one right passage: 1/log2(1 + rank) within the first ten, else 0, so most
queries tie and the differences are skewed. Two equal models draw their ranks from the same distribution, which is
harder for some queries. `found` plants an effect of the size that the gate itself states: a first measurement of
equal models states a minimum effect, and in a second one the model is truly better by just that. Designs:

    plain      300 queries, each a source of its own
    holm       one of 11 candidates is better, the others equal the old model; p-values are corrected together, and
               the effect is that at .05/11
    clusters   300 queries about 100 documents; a document's queries share how much better a model does on them
    seeds      3 trainings of each recipe, each with luck of its own

`promoted` is the share of comparisons without a difference that the gate calls better (a false alarm), `demoted` those
it calls worse. Under `holm` a false alarm is any of the 10 equal candidates. The last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from disti.decide import decide, judge
from disti.stats import holm

QUERIES, CLUSTERS, SEEDS, CANDIDATES = 300, 100, 3, 11
Random = np.random.Generator
Pair = tuple[np.ndarray, np.ndarray, list[int] | None]  # both sides [seeds, queries], clusters


def values(random: Random, hard: np.ndarray) -> np.ndarray:
    "nDCG@10 of queries with one right passage, whose rank is geometric."
    rank = random.geometric(hard)
    return np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0)


def plain(random: Random) -> Pair:
    "Two equal models, queries on their own."
    hard = random.beta(0.8, 1.2, QUERIES).clip(0.02, 1)
    return values(random, hard)[None], values(random, hard)[None], None


def clustered(random: Random) -> Pair:
    "Queries about one document go up or down together; documents have 1 to many queries."
    clusters = random.integers(0, CLUSTERS, QUERIES)
    a, b, _ = plain(random)
    return a + random.normal(0, 0.2, CLUSTERS)[clusters], b, clusters.tolist()


def seeded(random: Random) -> Pair:
    "Each training of a recipe has luck of its own."
    hard = random.beta(0.8, 1.2, QUERIES).clip(0.02, 1)
    sides = [
        np.stack([values(random, hard) for _ in range(SEEDS)]) + random.normal(0, 0.02, (SEEDS, 1)) for _ in range(2)
    ]
    return sides[0], sides[1], None


def gate(pair: Pair, n: int, plus: float = 0.0, p: float | None = None, **more: int) -> tuple[str, dict]:
    "The gate's word, where a is better by `plus` than it was drawn."
    found = decide(pair[0] + plus, pair[1], clusters=pair[2], n=n, **more)
    return judge(found, p)[0], found


def stated(draw: Callable[[Random], Pair], random: Random, comparisons: int = 1) -> float:
    "The minimum effect that the gate states after a measurement of equal models."
    a, b, clusters = draw(random)
    return decide(a, b, clusters=clusters, n=100, comparisons=comparisons)["minimum_effect"]


def one_design(draw: Callable[[Random], Pair], n_none: int, n_some: int, n: int) -> dict[str, float]:
    "Shares of the gate's words, without a difference and with one."
    none = [gate(draw(np.random.default_rng([0, i])), n)[0] for i in range(n_none)]
    some, sizes = [], []
    for i in range(n_some):
        random = np.random.default_rng([1, i])
        sizes.append(stated(draw, random))
        some.append(gate(draw(random), n, sizes[-1])[0])
    shares = {"promoted": none.count("better") / n_none, "demoted": none.count("worse") / n_none}
    return shares | {"found": some.count("better") / n_some, "effect": float(np.mean(sizes))}


def among_candidates(n_some: int, n: int) -> dict[str, float]:
    "One of eleven candidates is better by the effect that is stated for eleven."
    false, some, sizes = 0, 0, []
    for i in range(n_some):
        random = np.random.default_rng([2, i])
        sizes.append(stated(plain, random, CANDIDATES))
        results = [gate(plain(random), n, sizes[-1] * (k == 0), comparisons=CANDIDATES)[1] for k in range(CANDIDATES)]
        corrected = holm([found["p_randomisation"] for found in results])
        words = [judge(found, p)[0] for found, p in zip(results, corrected, strict=True)]
        some += words[0] == "better"
        false += "better" in words[1:]
    return {"promoted": false / n_some, "found": some / n_some, "effect": float(np.mean(sizes))}


def main() -> None:
    "All designs, a line each."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a few of each")
    parser.add_argument("--resamples", type=int, default=2000, help="of interval and test (the command takes 10 000)")
    asked = parser.parse_args()
    n_none, n_some = (20, 10) if asked.tiny else (2000, 1000)
    n, started, made = asked.resamples, time.perf_counter(), {}
    for name, draw in (("plain", plain), ("clusters", clustered), ("seeds", seeded)):
        made[name] = one_design(draw, n_none, n_some, n)
        print(f"{name:9}", {key: round(value, 4) for key, value in made[name].items()}, flush=True)
    made["holm"] = among_candidates(2 if asked.tiny else n_some, n)
    print(f"{'holm':9}", {key: round(value, 4) for key, value in made["holm"].items()}, flush=True)
    sizes = {"comparisons": n_none, "planted": n_some, "resamples": n, "seconds": round(time.perf_counter() - started)}
    print(json.dumps({f"{name}_{key}": round(v, 4) for name, row in made.items() for key, v in row.items()} | sizes))


if __name__ == "__main__":
    main()
