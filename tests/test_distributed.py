"Two processes on the CPU train together; one is killed, runs out of memory or diverges, and nothing is lost."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from disti.checkpoints import steps_kept

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
settings = Fit(steps=16, batch_size=3, lr=3e-3, precision="fp32", checkpoint_steps=4, log_steps=2,
               lint="off", report_to="none", chunk=int(sys.argv[3]))
fit(model, lists, "", settings, checkpoints=folder / harm, history=folder / f"{harm}.history.jsonl",
    loss=Ill(model, "info_nce + kl(tau_teacher=1)"), collator=Deadly(model))
torch.save(model.state_dict(), folder / f"{harm}-{os.environ['RANK']}.pt")
"""


def train(folder: Path, name: str, chunk: int = 0, **more: str) -> list[dict]:
    "Train in two processes; what the history says."
    (folder / "train.py").write_text(SCRIPT)
    restarts = "0" if more else "1"
    words = f"-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts {restarts}".split()
    command = [sys.executable, *words, str(folder / "train.py"), str(folder), name, str(chunk)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", **more}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert bool(done.returncode) == bool(more), done.stderr[-4000:]
    (folder / f"{name}.out").write_text(done.stdout)
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
