"A service as its clients meet it: asked, reloaded, given nonsense, looked at in a browser, and ended."

import contextlib
import http.client
import io
import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from conftest import BIN, ROOT, call

from disti.http import http_reranker
from disti.indexing import build_index, change_index
from disti.records import write_rows
from disti.run import main
from disti.searchindex import current, open_index
from disti.tiny import tiny_encoder
from disti.weights import model_record

KEY = "a key with ümlauts"
PASSAGES = {
    "ant": "An ant builds a nest of earth and needles.",
    "bee": "A bee builds a hive of wax, with cells of six sides.",
    "wasp": "A wasp builds a nest of paper.",
    "fly": "A fly builds nothing at all.",
    "kaefer": "Ein Käfer gräbt sich in das Holz.",
    "cat": "一只猫坐在垫子上",
    "long": "A very long passage about rivers, mountains and the weather. " * 60,
    "fish": "Fish swim in water, and sleep with open eyes.",
}


@contextlib.contextmanager
def serving(*words: str | Path, **env: str) -> Iterator[tuple[str, int, subprocess.Popen]]:
    "A service as a process: host, port, process."
    known = os.environ | {"OMP_NUM_THREADS": "1", **env}
    process = subprocess.Popen(
        [BIN / "disti", "serve", *map(str, words), "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=known,
    )  # fmt: skip
    try:
        lines: list[str] = []
        assert process.stdout and process.stderr
        while not lines or "http://" not in lines[-1]:
            lines.append(process.stdout.readline())
            if not lines[-1]:
                raise AssertionError("the service did not start:\n" + "".join(lines) + process.stderr.read())
        found = re.search(r"http://([\w.]+):(\d+)", lines[-1])
        assert found
        yield found[1], int(found[2]), process
    finally:
        process.kill()
        process.wait()


def ask(at: tuple, path: str, body: Any = None, key: str = KEY, raw: bytes | None = None) -> tuple[int, Any]:
    "One request on a connection of its own."
    connection = http.client.HTTPConnection(at[0], at[1], timeout=30)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}".encode()} if key else {})
    data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
    connection.request("POST" if data is not None else "GET", path, data, headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, json.loads(text) if "json" in reply.headers["content-type"] else text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "An index of real passages by a tiny model, another one by another, and a tiny reranker."
    folder = tmp_path_factory.mktemp("serving")
    for name, seed in (("student", 0), ("untrained", 7)):
        record = model_record(tiny_encoder(folder / f"model-{name}", list(PASSAGES.values()), seed=seed))
        build_index(folder / name, record, PASSAGES)
    return folder


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[tuple]:
    "One service for all tests that only ask; the teacher is the other encoder's cosine."
    words = (home / "student", "--untrained", home / "untrained", "--teacher", home / "model-untrained")
    with serving(
        *words, "--teacher-kind", "embedding_scorer", "--max-body-kb", "64", "--watch-s", "0.2", DISTI_API_KEY=KEY
    ) as at:
        yield at


def test_search_has_exactly_the_promised_shape(service: tuple) -> None:
    status, said = ask(service, "/search", {"query": PASSAGES["bee"], "k": 3})
    assert status == 200 and list(said) == ["query", "results", "total_results", "reranked", "latency_ms"]
    assert [list(row) for row in said["results"]] == [["doc_id", "text", "score", "rank"]] * 3
    assert said["results"][0] == {"doc_id": "bee", "text": PASSAGES["bee"], "score": 1.0, "rank": 1}
    assert (said["query"], said["total_results"], said["reranked"]) == (PASSAGES["bee"], 3, False)
    again = ask(service, "/search", {"query": PASSAGES["bee"], "k": 3, "rerank": True, "mode": "hybrid"})[1]
    assert (
        again["reranked"]
        and again["results"][0]["doc_id"] == "bee"
        and [r["rank"] for r in again["results"]] == [1, 2, 3]
    )


def test_what_is_served_is_what_the_model_says(service: tuple, home: Path) -> None:
    "Against a second way: sentence-transformers alone, as another server would load the folder."
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(home / "model-student"))
    queries = ["who builds a nest", "swim", "猫", "holz", "rivers and weather"]
    passages = plain.encode_document(list(PASSAGES.values()), normalize_embeddings=True)
    for query in queries:
        scores = passages @ plain.encode_query(query, normalize_embeddings=True)
        order = [list(PASSAGES)[i] for i in np.argsort(-scores, kind="stable")]
        rows = ask(service, "/search", {"query": query, "k": 8})[1]["results"]
        assert [row["doc_id"] for row in rows] == order
        assert np.abs(np.array([row["score"] for row in rows]) - np.sort(scores)[::-1]).max() < 1e-5


def test_another_disti_takes_it_as_a_teacher(service: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "a key with ümlauts")
    pairs = [("who builds a nest", text) for text in list(PASSAGES.values())[:5]]
    wanted = None
    for shape in ("jina", "cohere", "vllm", "infinity", "tei"):
        raw = shape in ("vllm", "infinity", "tei")
        status, reply = ask(service, "/rerank", {"query": "q", "texts": ["a"]})
        assert status == 200
        scorer = http_reranker(
            f"http://{service[0]}:{service[1]}/rerank", "teacher", shape=shape, scale="cosine" if raw else ""
        )
        with pytest.raises(Exception, match="401|no key"):
            scorer(pairs)
        if raw:
            body = {"query": pairs[0][0], "texts": [text for _, text in pairs], "raw_scores": True}
            rows = {row["index"]: row["score"] for row in ask(service, "/rerank", body)[1]}
            wanted = wanted or rows
            assert rows == wanted and all(-1 <= score <= 1 for score in rows.values())


def test_embeddings_as_openai_gives_them(service: tuple) -> None:
    import base64

    texts = ["an ant", "größer", "猫"]
    status, said = ask(service, "/v1/embeddings", {"input": texts, "model": "student"})
    assert (
        status == 200
        and list(said) == ["object", "data", "model", "usage"]
        and [d["index"] for d in said["data"]] == [0, 1, 2]
    )
    coded = ask(service, "/v1/embeddings", {"input": texts, "encoding_format": "base64"})[1]["data"]
    for one, other in zip(said["data"], coded, strict=True):
        assert np.allclose(np.frombuffer(base64.b64decode(other["embedding"]), "<f4"), one["embedding"])
        assert abs(np.linalg.norm(one["embedding"]) - 1) < 1e-5


WRONG: list[tuple[str, Any, int]] = [
    ("/search", {"query": ""}, 422),
    ("/search", {"query": "\u2003"}, 422),
    ("/search", {"query": ["a"]}, 422),
    ("/search", {"query": "a", "k": True}, 422),
    ("/search", {"query": "a", "k": 101}, 422),
    ("/search", {"query": "a", "k": 10**30}, 422),
    ("/search", {"query": "a", "mode": "magic"}, 422),
    ("/search", {"query": "a", "encoder": "teacher"}, 409),
    ("/search", {"query": "a", "page": 2}, 422),
    ("/search", {"query": "a" * 8001}, 413),
    ("/search", {"query": "a" * 70_000}, 413),
    ("/rerank", {"query": "a", "documents": []}, 422),
    ("/rerank", {"query": "a", "documents": ["a"] * 257}, 413),
    ("/v1/embeddings", {"input": "a", "dimensions": 7}, 422),
    ("/v1/embeddings", {"input": [[1, 2]]}, 422),
    ("/nowhere", {}, 404),
]


@pytest.mark.parametrize("path, body, status", WRONG, ids=lambda each: str(each)[:30])
def test_wrong_requests_are_told_what_to_do(service: tuple, path: str, body: Any, status: int) -> None:
    got, said = ask(service, path, body)
    assert got == status and list(said) == ["error"] and list(said["error"]) == ["code", "message", "remedy"]
    assert all(said["error"].values()) and "Traceback" not in json.dumps(said)


@pytest.mark.parametrize(
    "raw", [b"{", b"\xff\xfe", b'{"query": "\\ud800"}', b"[" * 60_000, b'{"query": NaN}', b'"a"', b""]
)
def test_what_is_no_request(service: tuple, raw: bytes) -> None:
    status, said = ask(service, "/search", raw=raw)
    assert status in (400, 422) and said["error"]["remedy"]


@pytest.mark.parametrize(
    "text", ["\x00", "🙂" * 500, "ﷺ\u202e\u200f", "a\u0301" * 999, "\ufeff\u2028x", "İ", "\U0010ffff"]
)
def test_every_script_is_answered(service: tuple, text: str) -> None:
    for mode in ("dense", "bm25", "hybrid"):
        status, said = ask(service, "/search", {"query": text, "mode": mode})
        assert status == 200 and said["query"] == text, said


@pytest.mark.parametrize("key", ["", "a key with ümlaut", "a key with ümlauts ", "A key with ümlauts"])
def test_a_wrong_key_sees_no_passage(service: tuple, key: str) -> None:
    for path, body in (
        ("/search", {"query": "a"}),
        ("/compare", {"query": "a"}),
        ("/metrics", None),
        ("/v1/models", None),
    ):
        status, said = ask(service, path, body, key=key)
        assert (status == 401) == (key.strip() != KEY), (path, key)
        assert KEY not in json.dumps(said)
    assert ask(service, "/health", key="")[0] == ask(service, "/ready", key="")[0] == 200


def test_counts_for_prometheus(service: tuple) -> None:
    ask(service, "/search", {"query": "a"})
    text = ask(service, "/metrics")[1]
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [-+.\de]+', line) for line in lines), text
    assert "disti_passages 8" in text and 'disti_requests_total{path="/search",status="200"}' in text


def test_openapi_is_kept_by_the_service(service: tuple) -> None:
    "Schemathesis asks every path with values that its document allows, and with some that it does not."
    schemathesis = pytest.importorskip("schemathesis")
    del schemathesis
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    words = [
        "--header",
        f"X-API-Key: {KEY}".encode().decode("latin-1"),
        "--checks",
        checks,
        "--no-color",
        "--seed",
        "1",
    ]
    how = ["--max-examples", "15", "--phases", "examples,coverage,fuzzing"]
    done = call(BIN / "st", "run", f"http://{service[0]}:{service[1]}/openapi.json", *words, *how, timeout=120)
    assert done.returncode == 0, done.stdout[-5000:]


def test_a_request_of_many_at_once_is_the_same_as_alone(service: tuple) -> None:
    queries = [f"{word} number {n}" for n in range(20) for word in ("nest", "wax", "wasser", "猫")]
    alone = {query: ask(service, "/search", {"query": query, "k": 3})[1]["results"] for query in queries[:8]}
    found: dict[str, Any] = {}
    threads = [
        threading.Thread(target=lambda q=q: found.update({q: ask(service, "/search", {"query": q, "k": 3})}))
        for q in queries
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80 and all(status == 200 for status, _ in found.values())
    for query, rows in alone.items():
        assert [row["doc_id"] for row in found[query][1]["results"]] == [row["doc_id"] for row in rows]


def filled(most: int, words: list[str], out: Path) -> None:
    "In a child: a command on a disk where no file may grow beyond `most` bytes."
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(words)
    os.write(os.open(out, os.O_WRONLY | os.O_CREAT), f"{code} {told.getvalue()}"[:500].encode())


@pytest.mark.parametrize("most", [2_000, 40_000, 60_000])
def test_a_full_disk_leaves_the_old_index(home: Path, tmp_path: Path, most: int) -> None:
    "A limit on the size of files stands for a disk that is full: while texts are encoded, and while files are written."
    index = tmp_path / "index"
    build_index(index, model_record(home / "model-student"), PASSAGES)
    before = {path.name: path.read_bytes() for path in current(index).iterdir()}
    rows = [{"_id": f"p{i}", "text": f"passage number {i} about nests and hives"} for i in range(400)]
    write_rows(tmp_path / "corpus.jsonl", rows)
    words = ["index", str(home / "model-student"), str(tmp_path / "corpus.jsonl"), "--out", str(index)]
    child = multiprocessing.get_context("fork").Process(target=filled, args=(most, words, tmp_path / "told"))
    child.start()
    child.join(60)
    told = (tmp_path / "told").read_text(encoding="utf-8")
    if told.startswith("0 "):
        assert most == 60_000 and len(open_index(index).doc_ids) == 400, "there was room enough"
        return
    assert (
        re.search(r"^1 .*no room on the disk .*the index is as it was before", told, re.S) and "Traceback" not in told
    ), told
    assert {path.name: path.read_bytes() for path in current(index).iterdir()} == before
    assert open_index(index).near.search(np.asarray(open_index(index).near.vectors[:1]), 1)[0][0][0] == "ant"


def test_strange_indexes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    empty, foreign = tmp_path / "empty", tmp_path / "foreign"
    empty.mkdir()
    foreign.mkdir()
    (foreign / "index.faiss").write_bytes(b"IxFI" + b"\0" * 100)
    for place, said in ((empty, "no current.json"), (foreign, "no current.json"), (tmp_path / "nowhere", "no index")):
        assert main(["serve", str(place), "--port", "0"]) == 1
        told = capsys.readouterr().err.strip().splitlines()
        assert said in told[-1] and "disti index MODEL COLLECTION" in told[-1] and "Traceback" not in "".join(told)


# --- the page ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    "One browser for all tests here."
    with Browser() as made:
        yield made


@pytest.fixture
def seen(service: tuple, page: Browser) -> Callable[[str], None]:
    "Open a path of the service, with the key that somebody has typed."

    def show(path: str) -> None:
        page.open(f"http://{service[0]}:{service[1]}/health")
        page.page.execute_script("sessionStorage.setItem('key', arguments[0])", KEY)
        page.open(f"http://{service[0]}:{service[1]}{path}")

    return show


@pytest.mark.browser
def test_page_shows_all_ways_side_by_side(seen: Callable[[str], None], page: Browser) -> None:
    seen("/")
    page.until("document.querySelector('#about').innerText.includes('8 passages')")
    page.page.execute_script(
        "document.querySelector('#q').value = 'who builds a nest'; document.querySelector('form button').click()"
    )
    page.until("document.querySelectorAll('section').length == 4")
    heads = page.ask("[...document.querySelectorAll('section h2')].map(h => h.textContent)")
    assert heads == ["BM25", "untrained", "student", "student + teacher"]
    assert page.ask("[...document.querySelectorAll('section:nth-child(3) .rank')].map(r => +r.textContent)") == list(
        range(1, 9)
    )
    assert page.ask("[...document.querySelectorAll('.took')].every(t => /^[\\d.]+ ms/.test(t.textContent))")
    moves = page.ask("[...document.querySelectorAll('section:nth-child(4) .move')].map(m => m.textContent)")
    assert moves and all(re.fullmatch(r"new|=|[▲▼]\d+", move) for move in moves), moves
    assert page.ask("performance.getEntriesByType('resource').every(e => e.name.startsWith(location.origin))")
    assert page.ask("document.querySelector('section:nth-child(1) mark').textContent.toLowerCase()") in (
        "builds",
        "nest",
    )


@pytest.mark.browser
def test_page_opens_a_passage_by_click_and_by_key(seen: Callable[[str], None], page: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    seen("/#rivers%20and%20mountains")
    first = "document.querySelector('section:nth-child(3) li')"
    page.until(first)
    assert page.ask(f"{first}.getAttribute('aria-expanded')") == "false"
    page.page.execute_script(f"{first}.click()")
    assert page.ask(f"{first}.getAttribute('aria-expanded')") == "true"
    body = page.page.switch_to.active_element
    body.send_keys(Keys.ESCAPE)
    page.until(f"{first}.getAttribute('aria-expanded') == 'false'")
    page.page.execute_script(f"{first}.focus()")
    page.page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.ask("document.activeElement.querySelector('.rank').textContent") == "2"
    page.page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert page.ask("document.activeElement.closest('section').dataset.name") == "student + teacher"
    page.page.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.ask("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.page.switch_to.active_element.send_keys("/")
    assert page.ask("document.activeElement.id") == "q"


@pytest.mark.browser
def test_page_in_the_dark_and_on_a_phone(seen: Callable[[str], None], page: Browser) -> None:
    page.page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    seen("/#nest")
    page.until("document.querySelectorAll('section').length == 4")
    assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    page.page.execute_script("document.querySelector('#theme').click()")
    assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(251, 251, 250)"
    page.page.execute_script("localStorage.clear()")
    page.page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    seen("/?phone#nest")
    page.until("document.querySelectorAll('nav button').length == 4")
    assert page.ask("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
    visible = "[...document.querySelectorAll('section')].filter(s => s.offsetParent).map(s => s.dataset.name)"
    assert page.ask(visible) == ["student"]
    page.page.execute_script("document.querySelector('nav button').click()")
    assert page.ask(visible) == ["BM25"]
    page.page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.browser
def test_page_asks_for_the_key(service: tuple, page: Browser) -> None:
    page.open(f"http://{service[0]}:{service[1]}/health")
    page.page.execute_script("sessionStorage.clear()")
    page.open(f"http://{service[0]}:{service[1]}/#nest")
    page.until("document.querySelector('.error input[type=password]')")
    assert "no key" in page.ask("document.querySelector('.error').innerText")
    typed = "const f = document.querySelector('.error form'); f.querySelector('input').value = arguments[0]; "
    page.page.execute_script(typed + "f.requestSubmit()", KEY)
    page.until("document.querySelectorAll('section').length == 4")


# --- the last test ends the service ----------------------------------------------------------------------------------


def test_it_is_changed_and_ended_while_it_is_asked(service: tuple, home: Path) -> None:
    "No answer is lost or wrong: not at a reload, not when its files are deleted, not at SIGTERM."
    index, wrong, over, answers = home / "student", list[Any](), threading.Event(), list[float]()

    def client() -> None:
        while not over.is_set():
            try:
                status, said = ask(service, "/search", {"query": PASSAGES["wasp"], "k": 1})
            except ConnectionRefusedError:
                return  # it takes no more
            except Exception as error:
                return wrong.append(repr(error))
            answers.append(time.monotonic())
            if status != 200 or said["results"][0]["doc_id"] != "wasp":
                wrong.append(said)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    change_index(index, add={"moth": "A moth flies into the light."}, delete=["fish"])
    until = time.monotonic() + 20
    while ask(service, "/ready")[1]["index"] != current(index).name and time.monotonic() < until:
        time.sleep(0.1)
    moth = ask(service, "/search", {"query": "A moth flies into the light.", "k": 1})[1]
    assert moth["results"][0]["doc_id"] == "moth"
    for path in current(index).glob("*"):
        path.unlink()  # somebody deletes the index under the service
    time.sleep(0.5)
    service[2].send_signal(signal.SIGTERM)
    ended = time.monotonic()
    assert service[2].wait(30) == 0
    over.set()
    for thread in clients:
        thread.join()
    assert wrong == [] and any(at > ended for at in answers), "it answered while it ended"
