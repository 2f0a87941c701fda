"Queries from documents alone: what the check says, what is planned, and a stage that was killed."

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT, call

from disti.check import check_recipe
from disti.pipeline import snakemake_words
from disti.recipe import read_recipe, resolve_recipe
from disti.records import read_rows, write_rows

CORPUS = [
    {"_id": f"d{n}", "text": f"The thing called number{n} is blue{n}. It was made in year{n} by hand."}
    for n in range(60)
]  # fmt: skip


def collection(folder: Path, tested: bool = True) -> dict[str, str]:
    "A collection without training pairs; its settings."
    write_rows(folder / "eval" / "things" / "corpus.jsonl", CORPUS, "corpus")
    if tested:
        asked = [{"_id": f"q{n}", "text": f"the one that is blue{n}"} for n in range(5)]
        write_rows(folder / "eval" / "things" / "queries.jsonl", asked, "queries")
        judged = [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(5)]
        write_rows(folder / "eval" / "things" / "relevance.jsonl", judged, "relevance")
    return {"collection": "things", "data_dir": str(folder), "artifacts": str(folder / "artifacts")}


def test_a_collection_without_training_pairs_is_checked(tmp_path: Path) -> None:
    sets = collection(tmp_path)
    found = check_recipe(resolve_recipe(read_recipe("documents"), sets=sets))
    assert not [each for each in found if each.severity == "stop"], found
    assert any(each.check == "writers" and "titles, leads, phrases" in each.says for each in found)
    lacks = check_recipe(resolve_recipe(read_recipe("own-data"), sets=sets), quick=True)
    assert [each.check for each in lacks if each.severity == "stop"] == ["data"], "own-data wants a finetune file"


def test_own_data_can_write_its_pairs_too(tmp_path: Path) -> None:
    sets = collection(tmp_path) | {"pairs_from": "synthetic", "synthesize.how": "phrases"}
    recipe = resolve_recipe(read_recipe("own-data"), sets=sets)
    assert not [each for each in check_recipe(recipe, quick=True) if each.severity == "stop"]
    config = tmp_path / "recipe.yaml"
    config.write_text(json.dumps(recipe))
    words = snakemake_words(recipe, config, cores=1, dry_run=True)
    planned = subprocess.run(words, cwd=ROOT, text=True, capture_output=True).stdout
    assert "rule synthesize" in planned and planned.index("rule synthesize") < planned.index("rule mine"), planned


class Slow(BaseHTTPRequestHandler):
    "A chat server that writes slowly, and counts."

    asked: list[str] = []

    def do_POST(self) -> None:
        "Ask about the thing that the passage names."
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        number = text.split("number")[1].split()[0]
        Slow.asked.append(number)
        time.sleep(0.05)
        said = {"choices": [{"message": {"content": f"Which one was made in year{number}?"}}]}
        raw = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *words: object) -> None:
        "Nothing."


@pytest.mark.slow
def test_a_killed_stage_asks_nothing_twice(tmp_path: Path) -> None:
    sets = collection(tmp_path, tested=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    values = sets | {"run": "things", "how": "chat", "llm": "slow", "url": f"http://127.0.0.1:{server.server_port}/v1"}
    values |= {"max_passages": 0, "max_docs": 0, "max_eval_queries": 0, "searchers": "bm25", "concurrency": 1}
    words = [sys.executable, "-m", "disti", "run", "synthesize", "--json", json.dumps(values)]
    out = tmp_path / "artifacts" / "things" / "synthetic"
    first = subprocess.Popen(words, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.time() + 600
    while time.time() < deadline and len(Slow.asked) < 10:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(0.5)  # the kernel, in a session of its own, goes with its parent
    assert not (out / "pairs.jsonl").exists() and (out / "written.jsonl").exists()
    done = call(*words, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:]
    assert len(Slow.asked) <= 60 + 2, "only what was under way is asked again"
    pairs = read_rows(out / "pairs.jsonl", "finetune")
    assert {row["positive_id"] for row in pairs} == {f"d{n}" for n in range(60)}
    assert all(f"year{row['positive_id'][1:]}?" in row["anchor"] for row in pairs)
    server.shutdown()
