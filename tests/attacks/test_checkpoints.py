"Training that is killed while it writes, and whose files are harmed: it ends with the weights of a run left alone."

import io
import multiprocessing
import os
import pickle
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attacks.tally import FULL, Tally
from transformers.utils import logging

from disti.batches import ListCollator
from disti.checkpoints import Sealing, steps_kept
from disti.manifests import SEAL
from disti.models import encode, load_student
from disti.progress import readable
from disti.records import read_rows
from disti.settings import Fit
from disti.tiny import tiny_encoder
from disti.training import fit

WORDS = "reverse sort open close read write file array socket path table index".split()
LISTS = [
    {"query": a, "passages": [f"{a} the {b}", f"{b} of {c}", f"{c} it"], "labels": [1.0, 0, 0], "scores": [4.0, 1, -2]}
    for a, b, c in zip(WORDS, WORDS[3:] + WORDS[:3], WORDS[7:] + WORDS[:7], strict=True)
]
SETTINGS = Fit(steps=12, batch_size=6, lr=3e-3, precision="fp32", checkpoint_steps=2, log_steps=2, lint="off",
               report_to="none", dropout=0.1)  # fmt: skip
TIMES = {"seconds", "tokens_per_s"}


class Killed(Exception):
    "As a kill, without a process."


class Deadly(ListCollator):
    "Dies when it is asked for the batch of some step."

    at, calls = 0, 0

    def __call__(self, rows: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise Killed
        return super().__call__(rows)


@dataclass
class Ended:
    "What a run left behind."

    weights: torch.Tensor
    history: list[dict]
    events: list[str]


@dataclass
class Place:
    "Where runs train, and the run that nobody disturbed."

    folder: Path
    settings: Fit = SETTINGS
    evaluate: Callable[[Any], float] | None = None
    whole: Ended | None = None

    def train(self, name: str, die_at: int = 0, **more: Any) -> Ended:
        "Train, or go on."
        torch.manual_seed(0)
        model = load_student(self.folder / "base", device="cpu")
        collator, history = Deadly(model), self.folder / f"{name}.history.jsonl"
        collator.at = die_at
        fit(model, LISTS, "info_nce + kl", self.settings, checkpoints=self.folder / name, history=history,
            evaluate=self.evaluate, collator=collator, **more)  # fmt: skip
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in read_rows(history, "history")]
        events = readable(self.folder / f"{name}.events.jsonl")[0]
        return Ended(weights, rows, [row["event"] for row in events])

    def stopped(self, name: str, at: int = 8) -> Path:
        "A run that died; its folder, which holds the checkpoints 6 and 4 when it died on its way to 8."
        kept = self.folder / "kept" / name
        if not kept.exists():
            with pytest.raises(Killed):
                self.train(name, die_at=at)
            kept.mkdir(parents=True)
            for path in self.folder.glob(f"{name}*"):
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, kept / path.name)
        for path in kept.iterdir():
            there = self.folder / path.name
            shutil.rmtree(there, ignore_errors=True)
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, there)
        return self.folder / name

    def same(self, name: str, **more: Any) -> bool:
        "Does the run end as if nothing had happened?"
        again = self.train(name, **more)
        left = (self.folder / name).exists()
        return not left and torch.equal(again.weights, self.whole.weights) and again.history == self.whole.history


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    "A place with a run left alone."
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    found = Place(tmp_path_factory.mktemp("checkpoints"))
    tiny_encoder(found.folder / "base", [text for row in LISTS for text in row["passages"]])
    found.whole = found.train("whole")
    yield found


# --- what is harmed ----------------------------------------------------------------------------------------------

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "run.json",
         "history.jsonl", "config.json", SEAL)  # fmt: skip


def cut(path: Path) -> None:
    "Half of a file is left."
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    "One bit is another."
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 4
    path.write_bytes(content)


def swap(one: Path, other: Path) -> None:
    "Two files, or folders, take each other's place."
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


class Code:
    "A pickle that would run."

    def __reduce__(self) -> tuple:
        return os.system, ("touch " + os.environ["DISTI_RAN"],)


def planted(path: Path) -> None:
    "A pickle that would run stands in a file's place."
    path.write_bytes(pickle.dumps(Code()))


HARM: dict[str, Callable[[Path, Path], Any]] = {  # the last checkpoint, the one before → harm
    **{f"{name} cut off": lambda last, _, name=name: cut(last / name) for name in FILES},
    **{f"{name} emptied": lambda last, _, name=name: (last / name).write_bytes(b"") for name in FILES},
    **{f"{name} with another bit": lambda last, _, name=name: flip(last / name) for name in FILES},
    **{f"{name} gone": lambda last, _, name=name: (last / name).unlink() for name in FILES if name != SEAL},
    **{f"{name} of zeros": lambda last, _, name=name: (last / name).write_bytes(b"\0" * 999) for name in FILES},
    "optimizers swapped": lambda last, before: swap(last / "optimizer.pt", before / "optimizer.pt"),
    "states swapped": lambda last, before: swap(last / "trainer_state.json", before / "trainer_state.json"),
    "folders swapped": swap,
    "an old copy under the new name": lambda last, before: [shutil.rmtree(last), shutil.copytree(before, last)],
    "a file put beside them": lambda last, _: (last / "pytorch_model.bin").write_bytes(b"x"),
    "a pickle as random state": lambda last, _: planted(last / "rng_state.pth"),
    "a pickle as optimizer": lambda last, _: planted(last / "optimizer.pt"),
    "a file for a folder": lambda last, _: [shutil.rmtree(last), last.write_text("x")],
    "both harmed": lambda last, before: [cut(last / "optimizer.pt"), flip(before / "model.safetensors")],
    "both gone": lambda last, before: [(last / "optimizer.pt").unlink(), (before / "scheduler.pt").unlink()],
}
FEW = ("model.safetensors cut off", "optimizer.pt gone", "rng_state.pth with another bit", "whole.json of zeros",
       "trainer_state.json cut off", "optimizers swapped", "folders swapped", "a pickle as random state",
       "both harmed")  # fmt: skip


def test_harmed_checkpoints(place: Place, tally: Tally, capsys, monkeypatch) -> None:
    "The one before is taken, or the beginning, and the finding names the file."
    monkeypatch.setenv("DISTI_RAN", str(place.folder / "ran"))
    wrong, silent, names = [], [], list(HARM) if FULL else FEW
    for name in names:
        home = place.stopped("harmed")
        last, before = list(steps_kept(home).values())[:2]
        assert (last.name, before.name) == ("checkpoint-6", "checkpoint-4")
        HARM[name](last, before)
        capsys.readouterr()
        same = place.same("harmed")
        told, file = capsys.readouterr().out, name.split()[0]
        named = file in told or file not in FILES or file == SEAL
        silent += [] if named and "finding: warn | checkpoint" in told else [name]
        wrong += [name] if not same or (place.folder / "ran").exists() else []
    tally("harmed checkpoints", tries=len(names), lost=len(silent), wrong=len(wrong), which=[*wrong, *silent])


def test_interrupted_checkpoint_is_counted(place: Place, tally: Tally, capsys) -> None:
    "A folder without its seal was being written: no news, but an event."
    home = place.stopped("half")
    (home / "checkpoint-6" / SEAL).unlink()
    capsys.readouterr()
    again = place.train("half")
    assert "finding" not in capsys.readouterr().out and again.events == ["interrupted"]
    tally("a checkpoint without a seal", tries=1, wrong=not torch.equal(again.weights, place.whole.weights))


def few(all_: dict[str, Any], *names: str) -> dict[str, Any]:
    "Some of the attacks, unless all are asked for."
    return all_ if FULL else {name: all_[name] for name in names}


def write(path: Path, content: bytes) -> None:
    "Write bytes, or nothing at all."
    path.write_bytes(content)


SMALL: dict[str, Callable[[Path], Any]] = {
    "cut off": cut,
    "emptied": lambda path: write(path, b""),
    "with another bit": flip,
    "gone": lambda path: path.unlink(),
    "of zeros": lambda path: write(path, b"\0" * 300),
    "of another kind": lambda path: write(path, b"[1, 2]"),
    "not UTF-8": lambda path: write(path, b"\xff\xfe{"),
}


def test_harmed_fingerprint(place: Place, tally: Tally, capsys) -> None:
    "The checkpoints say whose they are; that it was harmed is said."
    wrong, harms = [], few(SMALL, "cut off", "gone")
    for name, harm in harms.items():
        harm(place.stopped("marked") / "fingerprint.json")
        capsys.readouterr()
        same = place.same("marked")
        told = capsys.readouterr().out
        wrong += [name] if not same or "finding: warn | fingerprint" not in told else []
    tally("harmed fingerprints", tries=len(harms), wrong=len(wrong), which=wrong)


@dataclass
class Tight(Place):
    "A machine on which no more than 4 texts fit, with a gradient or without."

    limit: int = 4

    def train(self, name: str, die_at: int = 0, **more: Any) -> Ended:
        "Train where memory is short."
        from sentence_transformers import SentenceTransformer

        forward = SentenceTransformer.forward

        def limited(model: Any, features: dict, **given: Any) -> dict:
            if len(features["input_ids"]) > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return forward(model, features, **given)

        SentenceTransformer.forward = limited
        try:
            return super().train(name, die_at, **more)
        finally:
            SentenceTransformer.forward = forward


def test_harmed_recovery(place: Place, tally: Tally, capsys) -> None:
    "Smaller chunks survive when the file that says so does not; no attempt is made twice."
    tight, wrong = Tight(place.folder, replace(SETTINGS, dropout=0.0)), []
    tight.whole = tight.train("tight whole")
    assert set(tight.whole.events) == {"oom"}
    harms = few(SMALL, "with another bit", "gone")
    for name, harm in harms.items():
        home = tight.stopped("tight")
        for file in ("recovery.json", "recovery-copy.json")[: 1 + (name in ("gone", "emptied"))]:
            harm(home / file)
        capsys.readouterr()
        again = tight.train("tight")
        same = torch.equal(again.weights, tight.whole.weights) and again.events == tight.whole.events
        wrong += [name] if not same or "finding: warn | recovery" not in capsys.readouterr().out else []
    tally("harmed recovery files", tries=len(harms), wrong=len(wrong), which=wrong)


# --- history ----------------------------------------------------------------------------------------------------


def lines(change: Callable[[list[bytes]], Any]) -> Callable[[Path], None]:
    "A change of a file's lines."

    def harm(path: Path) -> None:
        found = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(change(found) or found))

    return harm


LINES: dict[str, Callable[[Path], Any]] = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: write(path, b""),
    "torn in the middle": lines(lambda found: [*found[:2], found[2][:20] + b"\n", *found[3:]]),
    "cut off within a row": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a line of garbage": lines(lambda found: [*found[:1], b"}}garbage\xff\n", *found[1:]]),
    "a line of zeros": lines(lambda found: [*found[:1], b"\0" * 80 + b"\n", *found[1:]]),
    "a number for a row": lines(lambda found: [*found[:1], b"7\n", *found[1:]]),
    "a row missing": lines(lambda found: found[:1] + found[2:]),
    "a row twice": lines(lambda found: found[:2] + found[1:]),
    "rows in another order": lines(lambda found: found[::-1]),
    "another loss": lines(lambda found: [found[0].replace(b'"loss": ', b'"loss": 1'), *found[1:]]),
    "rows of another run": lines(lambda found: [line.replace(b'"loss": ', b'"loss": 9') for line in found]),
}
LOST = ("deleted", "emptied", "cut off within a row", "a line of garbage", "a line of zeros", "a number for a row")
QUIET = {
    "rows of later steps": lines(lambda found: [*found, re.sub(rb'"step": \d+', b'"step": 9', found[-1])]),
    "a torn last row": lines(lambda found: [*found, b'{"step": 8, "los']),
}


def test_harmed_history(place: Place, tally: Tally, capsys) -> None:
    "The finished history is that of a run left alone."
    wrong, harms = [], few(LINES, "deleted", "torn in the middle", "a line of garbage") | QUIET
    for name, harm in harms.items():
        place.stopped("rows")
        harm(place.folder / "rows.history.jsonl")
        capsys.readouterr()
        same = place.same("rows")
        told = "finding: warn | history" in capsys.readouterr().out
        wrong += [name] if not same or told == (name in QUIET) else []
    tally("harmed histories", tries=len(harms), wrong=len(wrong), which=wrong)


def test_history_harmed_while_it_is_written(place: Place, tally: Tally, capsys) -> None:
    "Deleted in the middle of a run: what the run remembers is written again."
    history, calls = place.folder / "live.history.jsonl", []

    def deleting(model: Any) -> float:
        calls.append(model)
        history.unlink(missing_ok=True)
        return float(len(calls))

    watched = Place(place.folder, replace(SETTINGS, eval_steps=6), lambda model: float(len(calls)))
    one = watched.train("live whole")
    other = Place(place.folder, watched.settings, deleting).train("live")
    assert [row["step"] for row in other.history] == [row["step"] for row in one.history]
    tally("a history deleted on the way", tries=1, wrong="finding: warn | history" not in capsys.readouterr().out)


def test_harmed_events(place: Place, tally: Tally) -> None:
    "Events that a checkpoint knows are written again."
    tight, wrong = Tight(place.folder, replace(SETTINGS, dropout=0.0)), []
    whole, names = (
        tight.train("events whole"),
        few({name: LINES[name] for name in LOST}, "deleted", "a line of garbage"),
    )
    for name, harm in names.items():
        tight.stopped("events")
        harm(place.folder / "events.events.jsonl")
        wrong += [name] if tight.train("events").events != whole.events else []
    tally("harmed events", tries=len(names), wrong=len(wrong), which=wrong)


# --- the best evaluation ----------------------------------------------------------------------------------------


def below(model: Any) -> float:
    "A measure that gets worse the more is learned."
    query, first, last = (
        encode(model, texts, precision="fp32")
        for texts in zip(*[(row["query"], row["passages"][0], row["passages"][2]) for row in LISTS], strict=True)
    )
    return float((query * (last - first)).sum(1).mean())


def test_harmed_best(place: Place, tally: Tally, capsys) -> None:
    "Without its best checkpoint a later one is of no use: the run goes back to before it."
    best = Place(place.folder, replace(SETTINGS, eval_steps=3, patience=3), below)
    best.whole, wrong = best.train("best whole"), []
    for name, harm in {"gone": shutil.rmtree, "cut off": lambda path: cut(path / "model.safetensors")}.items():
        home = best.stopped("best", 9)
        steps = list(steps_kept(home))
        harm(home / f"checkpoint-{min(steps)}")
        capsys.readouterr()
        same = best.same("best")
        wrong += [name] if not same or "needs checkpoint-3" not in capsys.readouterr().out else []
    late, harmed = best.folder / "late", []

    def harming(model: Any) -> float:
        value = below(model)
        if not harmed and (late / "checkpoint-8").exists() and (late / "checkpoint-3").exists():
            harmed.append(value)
            cut(late / "checkpoint-3" / "model.safetensors")
        return value

    again = Place(place.folder, best.settings, harming).train("late")
    same = torch.equal(again.weights, best.whole.weights) and again.history == best.whole.history
    wrong += [] if same and harmed else ["harmed while the run went on"]
    tally("harmed best checkpoints", tries=3, wrong=len(wrong), which=wrong)


# --- memory and losses ------------------------------------------------------------------------------------------


def test_memory_runs_out_in_an_evaluation(place: Place, tally: Tally) -> None:
    "An evaluation of anybody's, with a batch size of its own, is halved."

    def own(model: Any) -> float:
        vectors = model.encode([text for row in LISTS for text in row["passages"]], batch_size=36)
        return float(vectors[:, 0].sum())

    settings, wrong = replace(SETTINGS, eval_steps=4, chunk=4), []
    for measure in (below, own):
        whole = Place(place.folder, settings, measure).train("eval whole")
        tight = Tight(place.folder, settings, measure).train("eval tight")
        near = [
            (a["dev"], pytest.approx(b["dev"], abs=1e-5))
            for a, b in zip(tight.history, whole.history, strict=True)
            if "dev" in b
        ]
        wrong += [] if near and all(a == b for a, b in near) and not tight.events else [measure.__name__]
    tally("too little memory in an evaluation", tries=2, wrong=len(wrong), which=wrong)


# --- kills while it writes --------------------------------------------------------------------------------------


def slow_disk(pause: float) -> None:
    "Files of weights and states are written piece by piece from here on."
    import safetensors.torch
    import transformers.modeling_utils as library

    def pieces(content: bytes, path: Any) -> None:
        with open(path, "wb", buffering=0) as file:
            for start in range(0, len(content), max(1, len(content) // 12)):
                file.write(content[start : start + max(1, len(content) // 12)])
                time.sleep(pause)

    def save(made: Any, path: Any, *more: Any, own: Any = torch.save, **given: Any) -> None:
        if isinstance(path, (str, Path)):
            buffer = io.BytesIO()
            own(made, buffer, *more, **given)
            return pieces(buffer.getvalue(), path)
        return own(made, path, *more, **given)

    def save_tensors(tensors: Any, path: Any, metadata: Any = None) -> None:
        pieces(safetensors.torch.save(tensors, metadata), path)

    torch.save, library.safe_save_file = save, save_tensors


def life(place: Place, name: str, pause: float, tell: Any) -> None:
    "A process that trains on a slow disk, and says when it writes a checkpoint."
    os.dup2(os.open(place.folder / f"{name}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1)
    os.dup2(1, 2)
    own, save = Sealing._save_checkpoint, torch.save
    slow_disk(pause)

    def telling(trainer: Any, *given: Any) -> None:
        tell.send("writes")
        own(trainer, *given)
        tell.send("wrote")

    Sealing._save_checkpoint = telling
    ended = place.train(name)
    save((ended.weights, ended.history), place.folder / f"{name}.pt")
    tell.send("ended")
    os._exit(0)


def live(place: Place, name: str, kill: Callable[[], tuple[int, float]], pause: float = 0.004) -> str:
    "One life: killed in one of its checkpoints, some seconds into it; the last thing that was heard of it."
    fork = multiprocessing.get_context("fork")
    hear, tell = fork.Pipe(duplex=False)
    child = fork.Process(target=life, args=(place, name, pause, tell))
    child.start()
    tell.close()
    count, after = kill()
    heard = ""
    try:
        while heard != "ended":
            heard = hear.recv()
            count -= heard == "writes"
            if heard == "writes" and not count:
                time.sleep(after)
                child.kill()
    except EOFError:
        pass
    child.join(60)
    return heard


def test_killed_while_a_checkpoint_is_written(place: Place, tally: Tally) -> None:
    "Killed at any moment of the writing, resumed each time: bit for bit the weights of a run left alone."
    began = time.time()
    assert live(place, "slow", lambda: (0, 0.0)) == "ended", (place.folder / "slow.log").read_text()[-2000:]
    weights, history = torch.load(place.folder / "slow.pt", weights_only=True)
    assert torch.equal(weights, place.whole.weights) and history == place.whole.history
    moments, wanted, kills, runs, wrong, lives = random.Random(0), 20 if FULL else 3, 0, 0, 0, 0
    while kills < wanted or not runs:
        name, more = f"killed-{runs}", kills < wanted
        heard = live(place, name, lambda: (moments.randint(1, 2) if more else 0, moments.uniform(0, 0.35)))  # noqa: B023
        kills, lives = kills + (heard == "writes"), lives + 1
        if heard == "ended":
            found, rows = torch.load(place.folder / f"{name}.pt", weights_only=True)
            wrong += not torch.equal(found, weights) or rows != history
            runs += 1
    seconds = round(time.time() - began)
    tally("kills while a checkpoint is written", tries=kills, wrong=wrong, runs=runs, lives=lives, seconds=seconds)
