"Two processes train what one does; one is killed, runs out of memory or diverges, and nothing is lost."

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from disti.batches import ListCollator
from disti.checkpoints import steps_kept
from disti.data import write_collection
from disti.distributed import life, rank
from disti.manifests import stamp
from disti.models import load_student
from disti.records import read_rows, write_rows
from disti.run import run_stage
from disti.training import Fit, fit
from disti.weights import model_record, write_model

SCRIPT = """
import os, signal, sys
from pathlib import Path

import torch

from disti.batches import ListCollator
from disti.objective import DistillLoss
from disti.distributed import life
from disti.models import load_student
from disti.training import Fit, fit

folder, harm = Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
words = "reverse sort open close read write file array socket path table index".split()
lists = [{"query": a, "passages": [f"{a} the {b}", f"{b} of {c}", f"{c} it"], "labels": [1.0, 0.0, 0.0],
          "scores": [4.0, 1.0, -2.0]}
         for a, b, c in zip(words, words[3:] + words[:3], words[7:] + words[:7], strict=True)]


class Deadly(ListCollator):
    calls = 0

    def __call__(self, rows):
        self.calls += 1
        dies = harm == "kill" or "DISTI_DIES" in os.environ
        if dies and os.environ["RANK"] == "1" and life() == 0 and self.calls == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(rows)


class Ill(DistillLoss):  # in the second process only, in its step 10
    calls = 0

    def forward(self, features, labels):
        self.calls += 1
        now = os.environ["RANK"] == "1" and life() == 0 and self.calls == 10
        if now and harm == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {name: term * (float("nan") if now and harm == "nan" else 1) for name, term in
                super().forward(features, labels).items()}


model = load_student(folder / "base", device="cpu")
settings = Fit(steps=16, batch_size=6, lr=3e-3, precision="fp32", checkpoint_steps=4, log_steps=2,
               lint="off", report_to="none", chunk=int(sys.argv[3]))
fit(model, lists, "", settings, checkpoints=folder / harm, history=folder / f"{harm}.history.jsonl",
    loss=Ill(model, "info_nce + kl(tau_teacher=1)"), collator=Deadly(model))
torch.save(model.state_dict(), folder / f"{harm}-{os.environ['RANK']}.pt")
"""
WORDS = "reverse sort open close read write file array socket path table index".split()
LISTS = [
    {
        "query": a,
        "passages": [f"{a} the {b}", f"{b} of {c}", f"{c} it"],
        "labels": [1.0, 0.0, 0.0],
        "scores": [4.0, 1.0, -2.0],
    }
    for a, b, c in zip(WORDS, WORDS[3:] + WORDS[:3], WORDS[7:] + WORDS[:7], strict=True)
]


def called(n: int, script: Path, *words: str, restarts: int = 1, fails: bool = False, **more: str) -> str:
    "Run a script in one process or more; what it prints."
    launcher = f"-m torch.distributed.run --standalone --nproc-per-node {n} --max-restarts {restarts}".split()
    command = [sys.executable, *(launcher if n > 1 else []), str(script), *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", **({"RANK": "0"} if n == 1 else {}), **more}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert bool(done.returncode) == fails, done.stderr[-4000:]
    return done.stdout


def train(folder: Path, name: str, chunk: int = 0, n: int = 2, **more: str) -> list[dict]:
    "Train in two processes; what the history says."
    (folder / "train.py").write_text(SCRIPT)
    words = [str(folder), name, str(chunk)]
    said = called(n, folder / "train.py", *words, restarts=0 if more else 1, fails=bool(more), **more)
    (folder / f"{name}.out").write_text(said)
    return [json.loads(line) for line in (folder / f"{name}.history.jsonl").read_text().splitlines()]


def weights(folder: Path, name: str, rank: int) -> torch.Tensor:
    "The weights with which a process ended, in one vector."
    return torch.cat([p.flatten() for p in torch.load(folder / f"{name}-{rank}.pt", weights_only=True).values()])


def events(folder: Path, name: str) -> list[dict]:
    "What happened to a run."
    return [json.loads(line) for line in (folder / f"{name}.events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    "A run of two processes that nobody disturbs."
    from disti.tiny import tiny_encoder

    folder = tmp_path_factory.mktemp("distributed")
    tiny_encoder(folder / "base", ["reverse sort open close read write file array socket path table index of the it"])
    return folder, train(folder, "whole")


def same_history(one: list[dict], other: list[dict]) -> None:
    "The same steps with the same losses and terms."
    for row, expected in zip(one, other, strict=True):
        assert row["step"] == expected["step"] and row["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert row["terms"] == pytest.approx(expected["terms"], abs=2e-4), "logged at four digits"


def test_two_processes_are_one(whole: tuple[Path, list[dict]]) -> None:
    folder, history = whole
    same_history(train(folder, "alone", n=1), history)
    assert (weights(folder, "whole", 0) - weights(folder, "alone", 0)).abs().max() < 1e-5


GRADIENTS = """
import json, os, sys
from pathlib import Path

import torch
from sentence_transformers.base.trainer import BaseTrainer
from torch.nn.parallel import DistributedDataParallel

from disti.batches import ListCollator, PairCollator
from disti.crossencoders import new_cross_encoder
from disti.distributed import is_first, join, several, wait
from disti.models import load_student
from disti.objective import parse
from disti.recover import InChunks
from disti.vectors import ContrastLoss

folder, rows = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
torch.set_num_threads(1)
join("cpu")
found = {}
every = "info_nce + kl + list_net + 0.1 spread_out + bce + margin_mse + hybrid"
for text, rerank in (("info_nce", False), (every, False), ("info_nce(tau=1) + bce", True)):
    for chunk in (0, 2):
        load = new_cross_encoder if rerank else load_student
        model = load(folder / "base", device="cpu", **({"max_length": 32} if rerank else {})).train()
        for module in model.modules():
            module.p = 0.0 if isinstance(module, torch.nn.Dropout) else getattr(module, "p", None)
        loss = InChunks(parse(text).module(model), chunk, scores=rerank)
        loss.model = DistributedDataParallel(model, find_unused_parameters=True) if several() else model
        batch = (PairCollator if rerank else ListCollator)(model, buckets=2)(rows)
        terms = loss(*BaseTrainer.collect_features(None, batch))
        sum(terms.values()).backward()
        slopes = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[f"{text} {chunk}"] = {name: term.item() for name, term in terms.items()}, slopes
torch.save(found, folder / f"gradients-{'two' if several() else 'one'}-{os.environ['RANK']}.pt")
wait()
"""


def test_loss_and_gradient_are_those_of_the_whole_batch(whole: tuple[Path, list[dict]]) -> None:
    "Seven lists, which do not go up in two; some share a passage, one has no positive, their lengths differ."
    folder, _ = whole
    rows = [row | {"passages": [*row["passages"], LISTS[0]["passages"][0]], "labels": [1.0, 0, 0, 0],
                   "scores": [*row["scores"], 0.5]} for row in LISTS[1:8]]  # fmt: skip
    rows[3] = rows[3] | {"passages": rows[3]["passages"][:2], "labels": [0.0, 0.0], "scores": [1.0, 2.0]}
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "gradients.py").write_text(GRADIENTS)
    for n in (1, 2):
        called(n, folder / "gradients.py", str(folder), str(folder / "rows.json"))
    one, *two = (torch.load(folder / f"gradients-{name}.pt") for name in ("one-0", "two-0", "two-1"))
    for key, (terms, slopes) in one.items():
        for here, own in (each[key] for each in two):
            assert here == pytest.approx(terms, abs=1e-5), key
            assert slopes.abs().max() > 1e-3 and (own - slopes).abs().max() < 1e-5 * max(1, slopes.abs().max()), key


def test_killed_process_is_restarted(whole: tuple[Path, list[dict]]) -> None:
    folder, history = whole
    again = train(folder, "kill")
    assert not (folder / "whole.events.jsonl").exists()
    (event,) = events(folder, "kill")
    assert (event["event"], event["step"]) in (("restart", 8), ("restart", 12)), "on from a checkpoint, not from 0"
    assert torch.equal(weights(folder, "whole", 0), weights(folder, "whole", 1)), "both processes have one model"
    assert torch.equal(weights(folder, "kill", 0), weights(folder, "kill", 1))
    difference = (weights(folder, "whole", 0) - weights(folder, "kill", 0)).abs().max()
    assert difference < 1e-5, f"weights differ by {difference} after a kill"
    assert [(row["step"], row["loss"]) for row in again] == [
        (row["step"], pytest.approx(row["loss"], abs=1e-5)) for row in history
    ]
    assert history[-1]["step"] == 16 and history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert not (folder / "kill").exists(), "checkpoints go when training ended well"


def test_chunks_in_two_processes(whole: tuple[Path, list[dict]]) -> None:
    folder, _ = whole
    train(folder, "chunks", chunk=2)
    assert (weights(folder, "whole", 0) - weights(folder, "chunks", 0)).abs().max() < 1e-5


def test_one_process_runs_out_of_memory(whole: tuple[Path, list[dict]]) -> None:
    folder, history = whole
    again = train(folder, "oom")
    assert [(event["event"], event["step"]) for event in events(folder, "oom")] == [("oom", 9), ("restart", 8)]
    assert "at a time from here on" in events(folder, "oom")[0]["detail"]
    assert (weights(folder, "whole", 0) - weights(folder, "oom", 0)).abs().max() < 1e-5, "smaller chunks, same gradient"
    assert [row["step"] for row in again] == [row["step"] for row in history]


def test_one_process_diverges(whole: tuple[Path, list[dict]]) -> None:
    folder, history = whole
    again = train(folder, "nan")
    assert [(event["event"], event["step"]) for event in events(folder, "nan")] == [("rollback", 9)]
    assert torch.equal(weights(folder, "nan", 0), weights(folder, "nan", 1)), "both went back"
    assert again[-1]["step"] == 16 and again[-1]["loss"] < 0.8 * again[0]["loss"]
    assert again[-1]["lr"] == pytest.approx(history[-1]["lr"] / 2), "with half the learning rate"


def test_one_process_lost_its_random_state(whole: tuple[Path, list[dict]]) -> None:
    "Both die; the newest checkpoint is damaged for the second of them. Both go on from the one before."
    folder, history = whole
    train(folder, "damaged", DISTI_DIES="yes")
    newest = next(iter(steps_kept(folder / "damaged").values()))
    (newest / "rng_state_1.pth").write_bytes(b"")
    again = train(folder, "damaged")
    assert f"{newest.name} rng_state_1.pth was changed" in (folder / "damaged.out").read_text()
    assert torch.equal(weights(folder, "damaged", 0), weights(folder, "damaged", 1))
    assert (weights(folder, "whole", 0) - weights(folder, "damaged", 0)).abs().max() < 1e-5
    assert [row["step"] for row in again] == [row["step"] for row in history]


# --- started from a notebook's process ---------------------------------------------------------------------------


class Harmful(ListCollator):
    "Does harm in the second process, in its batch 7."

    harm = ""
    calls = 0

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        self.calls += 1
        if self.calls == 7 and rank() == 1:
            if self.harm == "kill" and life() == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.harm == "error":
                raise ValueError("a list of step 7 is no list")
        return super().__call__(rows)


def measured(model: Any, file: Path) -> float:
    "An evaluation that is counted."
    with open(file, "a") as out:
        out.write(f"{rank()} {os.getpid()}\n")
    vectors = model.encode([row["query"] for row in LISTS], convert_to_tensor=True)
    return float(vectors.std())


def fitted(folder: Path, name: str, processes: int, harm: str = "", **more: Any) -> tuple[torch.Tensor, list[dict]]:
    "Train from this process; the weights, and the history."
    model = load_student(folder / "base", device="cpu")
    collator = Harmful(model)
    collator.harm = harm
    settings = Fit(steps=16, batch_size=5, lr=3e-3, precision="fp32", checkpoint_steps=4, log_steps=2, lint="off",
                   report_to="none", processes=processes, **more)  # fmt: skip
    evaluate = partial(measured, file=folder / f"{name}.measured") if settings.eval_steps else None
    history = fit(model, LISTS, "info_nce + kl", settings, checkpoints=folder / name, collator=collator,
                  history=folder / f"{name}.history.jsonl", evaluate=evaluate)  # fmt: skip
    return torch.cat([p.detach().flatten() for p in model.parameters()]), history


@pytest.fixture(scope="module")
def one(whole: tuple[Path, list[dict]]) -> tuple[Path, torch.Tensor, list[dict]]:
    "Five lists a step of twelve, so that the last batch of an epoch has two; the best of four evaluations is kept."
    folder, _ = whole
    return folder, *fitted(folder, "one", 1, eval_steps=4)


def test_a_notebook_trains_in_two_processes(one: tuple, capfd: pytest.CaptureFixture) -> None:
    folder, alone, history = one
    found, again = fitted(folder, "two", 2, eval_steps=4)
    same_history(again, history)
    assert (found - alone).abs().max() < 1e-5
    assert [row["dev"] for row in again if "dev" in row] == pytest.approx(
        [row["dev"] for row in history if "dev" in row], abs=1e-5
    )
    lines = (folder / "two.measured").read_text().splitlines()
    assert len(lines) == len((folder / "one.measured").read_text().splitlines()) == 4, "once, not once a process"
    assert {line.split()[0] for line in lines} == {"0"} and str(os.getpid()) not in " ".join(lines)
    assert not (folder / "two").exists() and not (folder / "two.workers").exists()


def test_a_worker_is_killed(one: tuple, capsys: pytest.CaptureFixture) -> None:
    folder, _, _ = one
    alone, history = fitted(folder, "one plain", 1)
    found, again = fitted(folder, "killed worker", 2, harm="kill")
    same_history(again, history)
    assert (found - alone).abs().max() < 1e-5
    (event,) = events(folder, "killed worker")
    assert event["event"] == "restart" and event["step"] == 4
    assert "a process was lost; all of them go on from the last checkpoint (life 2)" in capsys.readouterr().out


def test_the_error_of_a_worker_is_the_notebooks(one: tuple) -> None:
    folder, _, _ = one
    with pytest.raises(ValueError, match="^a list of step 7 is no list$") as raised:
        fitted(folder, "wrong", 2, harm="error")
    assert "test_distributed.py" in str(raised.value.__cause__), "where it was raised"
    assert not (folder / "wrong.events.jsonl").exists(), "it was not tried again"
    assert list(steps_kept(folder / "wrong")) == [4], "and goes on from here when it is mended"
    with pytest.raises(ValueError, match="an evaluation needs both"):
        fit(load_student(folder / "base", device="cpu"), LISTS, "kl", Fit(processes=2, eval_steps=2),
            checkpoints=folder / "x", history=folder / "x.jsonl")  # fmt: skip


# --- a stage ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mined(whole: tuple[Path, list[dict]]) -> Path:
    "The artifacts of a run in which the tiny encoder is to learn twelve lists."
    folder, _ = whole
    run = folder / "artifacts" / "r"
    corpus = {f"d{i}-{j}": text for i, row in enumerate(LISTS) for j, text in enumerate(row["passages"])}
    queries = {f"q{i}": row["query"] for i, row in enumerate(LISTS)}
    qrels = {f"q{i}": {f"d{i}-0": 1.0} for i in range(len(LISTS))}
    groups = [
        {"query_id": f"q{i}", "component": f"c{i}", "doc_ids": [f"d{i}-{j}" for j in range(3)], "labels": [1, 0, 0],
         "miner": "bm25"}
        for i in range(len(LISTS))
    ]  # fmt: skip
    scored = [group | {"scores": [4.0, 1.0, -2.0], "scorer": "rule"} for group in groups]
    source, told = run / "hard-negative", run / "teacher-score"
    made = write_collection(source, corpus=corpus, queries=queries, qrels=qrels)
    made += write_collection(source, queries=queries, qrels=qrels, split="dev")
    made += [write_rows(source / f"{name}.jsonl", groups, "group") for name in ("groups", "candidates-dev")]
    made += [write_rows(told / f"{split}.jsonl", scored, "scored") for split in ("train", "dev")]
    made.append(write_model(source / "model.json", model_record(str(folder / "base"))))
    for file in made:
        stamp(file, stage="by hand", params={})
    return folder / "artifacts"


STAGES = {
    "distill": {"loss": "info_nce + kl", "fit": "eval_steps=4, precision=fp32, lint=warn"},
    "lora": {"method": "lora", "rates": "1e-2 1e-3", "fit": "precision=fp32"},
    "teach": {"fold": -1, "fit": "eval_steps=4, precision=fp32"},
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_in_two_processes(mined: Path, stage: str) -> None:
    "The same student, history and facts as in one process, by the notebook as batch runs it."
    found = {}
    for n in (1, 2):
        given = STAGES[stage] | {"run": "r", "artifacts": str(mined), "steps": 8, "batch_size": 5, "n_negatives": 2}
        given |= {"name": "student", "lr": 3e-3} if stage != "teach" else {"lr": 3e-3}
        given["fit"] += f", processes={n}"
        said: list[str] = []
        run_stage(stage, given, show=said.append)
        place = mined / "r" / "models" / ("teacher" if stage == "teach" else "student")
        facts = json.loads(place.with_name(f"{place.name}.meta.json").read_text())["facts"]
        history = read_rows(place.with_name(f"{place.name}.history.jsonl"))
        texts = [f"{a} the {b}" for a, b in zip(WORDS, WORDS[3:], strict=False)]
        if stage == "teach":
            from disti.crossencoders import load_cross_encoder

            values = torch.tensor(load_cross_encoder(place, device="cpu").predict([(text, WORDS[0]) for text in texts]))
        else:
            values = load_student(place, device="cpu").encode(texts, convert_to_tensor=True)
        found[n] = values, history, facts
    (one, history, facts), (two, again, told) = found[1], found[2]
    assert (two - one).abs().max() < 1e-4 * max(1, one.abs().max())
    same_history(again, history)
    assert (facts.pop("processes"), told.pop("processes")) == (1, 2)
    for key, value in facts.items():
        assert told[key] == (pytest.approx(value, abs=1e-3) if isinstance(value, float) else value), key
    assert not (mined / "r" / "checkpoints").exists() or not any((mined / "r" / "checkpoints").iterdir())


def test_a_stage_says_what_a_worker_said(mined: Path) -> None:
    given = {"run": "r", "artifacts": str(mined), "name": "wrong", "keep": "", "fit": "processes=2", "batch_size": 1}
    said: list[str] = []
    with pytest.raises(RuntimeError, match=r"14_distill: ValueError: small batch: a batch of 1 list .*\(notebook: "):
        run_stage("distill", given | {"loss": "info_nce", "n_negatives": 0}, show=said.append)
    assert len([line for line in said if "finding: stop | small batch" in line]) == 1, "told once"
    kept = [row["check"] for row in read_rows(mined / "r" / "findings.jsonl") if row["stage"] == "14_distill"]
    assert kept.count("small batch") == 1
