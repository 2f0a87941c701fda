"Benches work: each at toy size, where its figures mean nothing."

import json
import sys

import pytest
from conftest import call


@pytest.mark.parametrize("name", ["encoding", "gate", "lengths", "limits", "mining", "pipeline", "scoring", "teacher"])
def test_bench_runs(name: str) -> None:
    done = call(sys.executable, f"bench/{name}.py", "--tiny", timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]), "the last line is one JSON object"
