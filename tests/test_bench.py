"Benches work: each at toy size, where its figures mean nothing."

import json
import sys
from pathlib import Path

import pytest
from conftest import call


@pytest.mark.parametrize("name", ["gate", "lengths", "mining", "scoring", "teacher"])
def test_bench_runs(name: str) -> None:
    done = call(sys.executable, f"bench/{name}.py", "--tiny", timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]), "the last line is one JSON object"


@pytest.mark.slow
def test_when_tells_the_means_of_a_run(smoke: Path) -> None:
    artifacts = smoke.parent
    done = call(sys.executable, "bench/when.py", smoke.name, "--artifacts", str(artifacts), timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    means = {
        row["model"]: row["nDCG@10"] for row in json.loads((smoke / "results/comparison.json").read_text())["models"]
    }
    assert told["smoke: small - small-labels"] == pytest.approx(means["small"] - means["small-labels"], abs=1e-4)
    assert f"| BM25 | {means['bm25']:.3f}" in done.stdout
