"What comes from others: recipes, names, texts, servers and models. Each attack is a few lines; the table counts them."
# ruff: noqa: E501 - an attack a line

import base64
import io
import json
import os
import pickle
import re
import shutil
import socketserver
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disti.endpoint import Endpoint, Refused
from disti.findings import html_text, md_id, md_text, plain, shown_line
from disti.recipe import read_recipe, resolve_recipe
from disti.run import main

STUDENT = "students: {a: {stage: lora}}\n"


def refused(error: BaseException) -> bool:
    "An error that a person can read: one kind of ours, one line, nothing that a terminal obeys."
    return isinstance(error, ValueError | OSError | Refused) and 0 < len(plain(error)) < 4000


def raises(act: Callable[[], Any]) -> BaseException | None:
    "The error of an act."
    try:
        act()
    except BaseException as error:
        return error
    return None


# --- recipes and names -------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
RECIPES = {
    "students a list": "students: [a]\n", "students null": "students:\n", "students a number": "students: 3\n",
    "stage a number": "stages: {mine: 3}\n" + STUDENT, "student null": "students: {a: }\n",
    "a number as a name": "students: {3: {stage: lora}}\n", "a truth as a name": "students: {yes: {stage: lora}}\n",
    "two keys": "seed: 1\nseed: 2\n" + STUDENT, "two deep keys": "students:\n  a: {lr: 1.0, lr: 2.0}\n",
    "two keys in a list": "dims: [{a: 1, a: 2}]\n" + STUDENT, "unknown key": "sead: 1\n" + STUDENT,
    "unknown deep key": "students: {a: {stage: lora, lrr: 1.0}}\n", "seed -1": "seed: -1\n" + STUDENT,
    "lr NaN": "students: {a: {stage: lora, lr: .nan}}\n", "lr -1": "students: {a: {stage: lora, lr: -1.0}}\n",
    "lr inf": "students: {a: {stage: lora, lr: .inf}}\n", "steps 0": "steps: 0\n" + STUDENT, "bomb": BOMB + STUDENT,
    "a circle": "students: &a {b: *a}\n", "merge": "x: &x {a: 1}\nstages: {mine: {<<: *x}}\n" + STUDENT,
    "python": "run: !!python/object/apply:os.system ['touch PWNED']\n" + STUDENT, "binary": "run: !!binary aGk=\n" + STUDENT,
    "a set": "students: !!set {a}\n", "empty": "", "spaces": "  \n", "comment": "# x\n", "a list": "- a\n", "a text": "hello\n",
    "two documents": "run: a\n---\nrun: b\n", "a tab": "run: x\n\tmain: y\n", "a nest": "a: " + "[" * 50_000,
    "a deep nest": "a: " + "[" * 500 + "]" * 500, "a date": "run: 2026-01-02\n" + STUDENT, "octal": "seed: 017\n" + STUDENT,
    "minutes": "seed: 1:30\n" + STUDENT, "hex": "seed: 0x1f\n" + STUDENT, "yes": "run: yes\n" + STUDENT,
    "long number": "seed: " + "9" * 5000 + "\n" + STUDENT, "half a character": 'query_prompt: "\\ud800"\n' + STUDENT,
    "NUL": 'query_prompt: "\\0"\n' + STUDENT, "ESC": 'query_prompt: "\\e[2J"\n' + STUDENT, "raw ESC": "main: \x1b[2J\n",
    "one stage twice": "stages: {mine: {depth: 3}, 11_mine: {depth: 4}}\n" + STUDENT, "a path as a stage": "stages: {./x.ipynb: {}}\n" + STUDENT,
    "twins": "students: {kl: {stage: lora}, KL: {stage: lora}}\n", "a scale that breaks": "scale: s\nscales: {s: {students: }}\n" + STUDENT,
    "digests": "digests: 3\n" + STUDENT, "no artifacts": "artifacts: ''\n" + STUDENT, "key": "teacher: 'http://h/r?api_key=s3cret'\n" + STUDENT,
}  # fmt: skip
BYTES = {
    "latin-1": "run: café\n".encode("latin-1"),
    "UTF-16": "run: a\n".encode("utf-16"),
    "program": b"\x7fELF\x00\x01",
    "huge": b"#" * (1 << 20),
}
NAMES = ("..", ".", "a/b", "a\\b", "/x", "../../x", "-rf", "a b", "{x}", "x" * 300, "con", "NUL.txt", "LPT1", "a.", "a\n", "\x1b[2J", "e\u0301",
         "a\u200bb", ".hidden", "a\u202eb", "", " ", "*", "$(x)", "a;b", "'", '"', "~", "é" * 60)  # fmt: skip


def test_recipes_and_names(tmp_path: Path, monkeypatch, capsys, tally) -> None:
    monkeypatch.chdir(tmp_path)
    wrong, files = [], {name: text.encode() for name, text in RECIPES.items()} | BYTES
    files |= {f"run {name!r}": f"run: {json.dumps(name)}\n{STUDENT}".encode() for name in NAMES}
    files |= {
        f"student {name!r}": f"students: {{{json.dumps(name)}: {{stage: lora}}}}\n".encode()
        for name in (*NAMES, "bm25", "Teacher", "teacher-0")
    }
    for name, raw in files.items():
        Path("own.yaml").write_bytes(raw)
        error, began = raises(lambda: resolve_recipe(read_recipe("own.yaml"))), time.monotonic()
        words = str(error)
        if not (error and refused(error) and "own.yaml" in words) or "s3cret" in words or time.monotonic() - began > 10:
            wrong.append(f"{name}: {type(error).__name__}: {words[:200]}")
    Path("own.yaml").unlink()
    Path("folder.yaml").mkdir()
    for words in ("pipeline folder.yaml", "check folder.yaml", "run evaluate -p run r --variant ../../x", "run evaluate -p run r -p model_name ../x",
                  "run mine -p run ../x", "run evaluate -p run r -p collection ../../x", "pipeline demo --set stages=3", "pipeline demo --set run=a/b",
                  "run score -p teacher http://h/r?api_key=s3cret -p scorer_kind http_reranker", "run score -p scorer_options api_key:s3cret"):  # fmt: skip
        code = main(words.split())
        said = capsys.readouterr()
        if code not in (1, 2) or "s3cret" in said.out + said.err or "Traceback" in said.err:
            wrong.append(f"{words}: {code} {said}")
    left = [str(path) for path in tmp_path.rglob("*") if path.name != "folder.yaml"]
    assert not wrong and not left, "\n".join(map(str, wrong + left))
    tally("untrusted recipes and names", tries=len(files) + 10, wrong=len(wrong) + len(left))


# --- data files --------------------------------------------------------------------------------------------------

ROWS: dict[str, tuple[str, bytes]] = {
    "a nest": ("corpus", b'{"_id": "a", "text": ' + b"[" * 100_000), "a nest of objects": ("corpus", b'{"a":' * 100_000),
    "a key twice": ("corpus", b'{"_id": "a", "text": "x", "text": "y"}'), "a deep key twice": ("corpus", b'{"_id": "a", "text": "x", "o": {"k": 1, "k": 2}}'),
    "a long number": ("relevance", b'{"query-id": "q", "corpus-id": "d", "score": ' + b"9" * 5000 + b"}"), "-10**400": ("relevance", b'{"query-id": "q", "corpus-id": "d", "score": -1' + b"0" * 400 + b"}"),
    "infinite": ("relevance", b'{"query-id": "q", "corpus-id": "d", "score": -Infinity}'), "NaN": ("relevance", b'{"query-id": "q", "corpus-id": "d", "score": NaN}'),
    "half a character": ("queries", b'{"_id": "a", "text": "\\ud800"}'), "half a key": ("queries", b'{"_id": "a", "text": "x", "\\ud800": 1}'),
    "UTF-16": ("queries", '{"_id": "a"}'.encode("utf-16")), "latin-1": ("queries", '{"_id": "a", "text": "é"}'.encode("latin-1")),
    "a list": ("queries", b"[1]"), "a number": ("queries", b"3"), "nothing": ("queries", b""), "a program": ("queries", b"\x7fELF\x02\x01\x00"),
    "an id in a list": ("queries", b'{"_id": ["a"], "text": "x"}'), "blank": ("queries", b'{"_id": "a", "text": "\\u00a0"}'), "cut": ("queries", b'{"_id": "a", "te'),
}  # fmt: skip


def test_data_files(tmp_path: Path, tally) -> None:
    from disti.records import read_rows

    wrong = []
    for name, (kind, raw) in ROWS.items():
        (tmp_path / "rows.jsonl").write_bytes(raw)
        error = raises(lambda kind=kind: read_rows(tmp_path / "rows.jsonl", kind))
        said = plain(error)
        if (
            not isinstance(error, ValueError)
            or "rows.jsonl" not in said
            or "line 1" not in said
            and raw
            or len(said) > 1000
        ):
            wrong.append(f"{name}: {type(error).__name__}: {said[:200]}")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    for name in ("pipe.jsonl", "folder.jsonl", "torn.parquet"):
        if not isinstance(
            error := raises(lambda name=name: read_rows(tmp_path / name, "corpus")), ValueError
        ) or name not in str(error):
            wrong.append(f"{name}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)
    tally("data files of others", tries=len(ROWS) + 3, wrong=len(wrong))


# --- texts -------------------------------------------------------------------------------------------------------

EVIL = ["\x1b[2J\x1b]0;x\x07", "\x1b]52;c;eA==\x07", "\x9b2J", "\x07\x08\x7f", "a\u202egnp.exe", "\u2066x\u2069", "a\u200bb\ufeff", "a\u2028b\x85c", "a\r\nb",
        "\ud800", "`x` ``` ~~~", "|a|b|", "<script>alert(1)</script>", "![x](http://evil/x.png)", "[x](javascript:alert(1))", "</pre></td></table>",
        "<img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "{% raw %}", "# x\n---\n- y", "[^1]: x", "<http://evil>", "$x$ \\[y\\]", "&lt;b&gt;", "**x** __y__",
        "\U000e0041\U000e0042", "1. x", "=== x"]  # fmt: skip


def rendered(markdown: str) -> Any:
    "Markdown as HTML, by the reader of Jupyter and of the site."
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


def test_texts_are_text(tally) -> None:
    wrong = []
    for text in EVIL:
        if not (plain(text).isprintable() and shown_line(text).isprintable()):
            wrong.append(("terminal", text))
        page = rendered(
            f"| a | b |\n|---|---|\n| {md_text(text)} | {md_id(text)} |\n\n### {md_text(text)}\n\nSee: {md_text(text)} ({md_id(text)})\n"
        )
        tags = set(re.findall(r"</?([a-zA-Z0-9]+)", page))
        if (
            tags - {"table", "thead", "tbody", "tr", "th", "td", "h3", "p", "code"}
            or page.count("<tr>") != 2
            or page.count("<td>") != 2
        ):
            wrong.append(("markdown", text, page))
        shown = str(html_text(text))
        if "<" in shown or any(sign in shown for sign in "\x1b\x07\x9b\u202e\u200b\ud800"):
            wrong.append(("html", text, shown))
    assert not wrong, wrong
    tally("texts on terminal, in Markdown, in HTML", tries=3 * len(EVIL), wrong=len(wrong))


def test_texts_in_pages(tally) -> None:
    "The same texts as ids, passages, names, findings and manifests, in cases.md, comparison.md and report.html."
    from html.parser import HTMLParser

    from disti.casebook import add_evidence, cases_md, choose_cases, paired_cases
    from disti.comparison import comparison_md, comparison_of
    from disti.data import Collection
    from disti.report import report_html

    found = list[str]()

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            on = [
                name
                for name, value in attrs
                if name.startswith("on") or name in ("href", "src") and "evil" in str(value)
            ]
            on += [name for name, value in attrs if "javascript:" in str(value) and name != "aria-label"]
            found.extend([tag] * (tag in ("script", "img", "iframe", "object", "embed", "base", "form")) + on)

    wrong, tries = [], 0
    for text in EVIL:
        text = text.replace("\ud800", "\ufffd")
        queries, docs = (
            {f"q{n}{text}": f"{text} {n}" for n in range(4)},
            {f"d{n}{text}": f"{n} {text}" for n in range(5)},
        )
        qrels = {q: {d: 1.0} for q, d in zip(queries, docs, strict=False)}
        rows = [{"model": model, "collection": text, "query_id": q, "measure": "nDCG@10", "value": float((n + k) % 2)}
                for k, model in enumerate(("untrained", f"m{text}")) for n, q in enumerate(queries)]  # fmt: skip
        texts = Collection(text, docs, queries, qrels)
        run = {q: [(d, 1.0) for d in docs] for q in queries}
        cases = add_evidence(choose_cases(paired_cases(rows[:4], rows[4:])), qrels, run, run)
        comparison = comparison_of(rows, measures=["nDCG@10"], main=f"m{text}", trial=text)
        pages = (
            rendered(cases_md(cases, texts, {"wins": 1, "ties": 0, "losses": 3}, text)),
            rendered(comparison_md(comparison)),
        )
        finding = {"severity": "warn", "check": text, "says": text, "remedy": text, "stages": [text]}
        manifests = {
            f"models/m{text}": {
                "stage": text,
                "params": {"loss": text, text: text},
                "git": text,
                "device": text,
                "versions": {text: text},
            }
        }
        parts = {"histories": {}, "teacher": {}, "scored": [], "test": [], "cases": cases, "gap": {}, "near": [], "findings": [finding],
                 "student": {"name": text}, "mined": {text: text}, "manifests": manifests}  # fmt: skip
        for page in (*pages, report_html(comparison, rows, parts, texts, run=text)):
            tries += 1
            found.clear()
            own = r"<script>document\.querySelectorAll[^<]*(?:<[^/][^<]*)*</script>\s*</body>"  # sorts tables
            Tags().feed(re.sub(own, "</body>", page))
            if found or any(sign in page for sign in "\x1b\x07\x9b\u202e\u2066\u200b"):
                wrong.append((text, found[:3]))
    assert not wrong, wrong
    tally("texts in cases.md, comparison.md, report.html", tries=tries, wrong=len(wrong))


# --- servers -----------------------------------------------------------------------------------------------------

SERVERS: dict[str, Callable[[Any], Any]] = {
    "drips an answer": lambda s: [
        s(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"),
        *(s(b" ", 0.2) for _ in range(99)),
    ],
    "drips headers": lambda s: [s(b"HTTP/1.1 200 OK\r\n"), *(s(b"a", 0.2) for _ in range(99))],
    "drips a status": lambda s: [s(b"H", 0.2) for _ in range(99)],
    "drips chunks": lambda s: [
        s(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        *(s(b"1\r\n \r\n", 0.2) for _ in range(99)),
    ],
    "goes on and on": lambda s: [s(b"HTTP/1.1 100 Continue\r\n\r\n", 0.01) for _ in range(9999)],
    "is silent": lambda s: time.sleep(9),
    "answers 300 MB": lambda s: [
        s(b"HTTP/1.1 200 OK\r\nContent-Length: 314572800\r\n\r\n"),
        *(s(b" " * (1 << 20)) for _ in range(300)),
    ],
    "fails with 300 MB": lambda s: [
        s(b"HTTP/1.1 500 No\r\nContent-Length: 314572800\r\n\r\n"),
        *(s(b" " * (1 << 20)) for _ in range(300)),
    ],
    "endless header": lambda s: [s(b"HTTP/1.1 200 OK\r\na: "), *(s(b"a" * (1 << 20)) for _ in range(300))],
    "a bomb": lambda s: s(answer(BOMBED, "Content-Encoding: gzip")),
    "a nest": lambda s: s(answer(b"[" * 200_000)),
    "a page": lambda s: s(answer(b"<html>\x1b[2J", "Content-Type: text/html")),
    "a long number": lambda s: s(answer(b"9" * 50_000)),
    "UTF-16": lambda s: s(answer("[1]".encode("utf-16"))),
    "sends on": lambda s: s(
        b"HTTP/1.1 308 Go\r\nLocation: http://127.0.0.1:%d/s3cret\r\nContent-Length: 0\r\n\r\n" % OTHER["port"]
    ),
    "tells the key": lambda s: s(answer(b"no, Bearer s3cret \x1b]52;c;eA==\x07", status=b"401 No")),
    "tells the key late": lambda s: s(answer(b"x" * 297 + b"s3cret", status=b"403 No")),
    "nonsense": lambda s: s(b"\x00\x01\x02\r\n\r\n"),
    "hangs up": lambda s: None,
}
OTHER = {"port": 0, "heard": 0}
BOMBED = base64.b64decode("H4sIAAAAAAAAA+3BMQEAAADCoPVPbQwfoAAAAAAAAAAAAAAAAAAAAIC3AYbSVKsAQAAA")


def answer(body: bytes, *headers: str, status: bytes = b"200 OK") -> bytes:
    "An answer of HTTP."
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *(line.encode() for line in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Answers(socketserver.BaseRequestHandler):
    "One bad answer; to the other server it matters only that somebody came."

    def handle(self) -> None:
        if self.server.server_address[1] == OTHER["port"]:
            OTHER["heard"] += 1
            return
        self.request.recv(1 << 16)

        def send(data: bytes, pause: float = 0) -> None:
            self.request.sendall(data)
            time.sleep(pause)

        try:
            SERVERS[self.server.does](send)  # type: ignore[attr-defined]
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    "On a free port."

    daemon_threads, does = True, ""

    def handle_error(self, *_: Any) -> None:
        "It is meant to fail."


def test_servers(monkeypatch, tally) -> None:
    import resource

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server, other, wrong = Server(("127.0.0.1", 0), Answers), Server(("127.0.0.1", 0), Answers), []
    OTHER["port"] = other.server_address[1]
    for each in (server, other):
        threading.Thread(target=each.serve_forever, daemon=True).start()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for server.does in SERVERS:
        asked, began = (
            Endpoint(f"http://127.0.0.1:{server.server_address[1]}/x?version=1", "s3cret", retries=0, timeout=1.0),
            time.monotonic(),
        )
        error = raises(lambda asked=asked: asked.once({"query": "a"}))
        words, took = str(error), time.monotonic() - began
        if not isinstance(error, Refused) or not words.isprintable() or "s3cr" in words.replace("***", "") or took > 5:
            wrong.append(f"{server.does}: {took:.1f} s, {type(error).__name__}: {words[:200]}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    for each in (server, other):
        each.shutdown()
    assert not wrong and not OTHER["heard"] and grown < 150, (wrong, OTHER, f"{grown:.0f} MB")
    tally("bad servers", tries=len(SERVERS), wrong=len(wrong) + OTHER["heard"], most_megabytes=round(grown))


# --- models ------------------------------------------------------------------------------------------------------


def change(folder: Path, name: str, **values: Any) -> None:
    "Other values in a configuration."
    path = folder / name
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(held | values))


def code(folder: Path, name: str = "evil.py") -> None:
    "Python code that leaves a mark when it runs."
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"open({str(folder.parent / 'PWNED')!r}, 'w')\nclass T: pass\n")


def part(kind: str, path: str = "1_X", **config: Any) -> Callable[[Path], None]:
    "One more part in modules.json."

    def add(folder: Path) -> None:
        code(folder)
        code(folder, "disti/evil.py")
        parts = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps([*parts, {"idx": 9, "name": "9", "path": path, "type": kind}]))
        (folder / "1_X").mkdir()
        for name in ("config.json", "router_config.json", "wordembedding_config.json"):
            change(folder / "1_X", name, **config)

    return add


class Boom:
    "A pickle that leaves a mark when it is read."

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return open, (str(self.folder.parent / "PWNED"), "w")


def pickled(folder: Path, raw: bool = False) -> None:
    "Weights as a pickle."
    import torch

    (folder / "model.safetensors").unlink()
    if raw:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Boom(folder)))
    else:
        torch.save({"a": Boom(folder)}, folder / "pytorch_model.bin")


def header(folder: Path, told: dict[str, Any], size: int = 0, length: int = 0) -> None:
    "A safetensors file with this header."
    text = json.dumps(told).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write((length or len(text)).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)


def tensor(dtype: str, shape: list[int], end: int) -> dict[str, Any]:
    "One weight in a header."
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


def cut(folder: Path, name: str, size: int) -> None:
    "A file of another size; without content where it grows."
    os.truncate(folder / name, size)


def replaced(folder: Path, name: str, make: Callable[[Path], Any]) -> None:
    "Something else in a file's place."
    (folder / name).unlink(missing_ok=True)
    make(folder / name)


MODELS: dict[str, Callable[[Path], Any]] = {
    "auto_map of an unknown kind": lambda f: (code(f), change(f, "config.json", model_type="x", auto_map={"AutoConfig": "evil.T", "AutoModel": "evil.T"})),
    "trust in its own options": lambda f: (code(f), change(f, "config.json", model_type="x", auto_map={"AutoConfig": "evil.T"}),
        change(f, "sentence_bert_config.json", config_args={"trust_remote_code": True}, model_args={"trust_remote_code": True})),
    "pickles in its own options": lambda f: (pickled(f), change(f, "sentence_bert_config.json", model_args={"weights_only": False})),
    "a part of its own": part("evil.T"), "a disti. part": part("disti.evil.T"), "a module of disti": part("disti.run"),
    "a function": part("sentence_transformers.util.http_get"), "a module": part("sentence_transformers.base.model.pickle"),
    "torch": part("sentence_transformers.base.model.torch"), "another class": part("sentence_transformers.SentenceTransformer"),
    "a router's part": part("sentence_transformers.models.Router", types={"a": "evil.T"}, structure={"a": ["a"]}, parameters={}),
    "an old router's part": part("sentence_transformers.models.Asym", types={"a": "sentence_transformers.util.http_get"}, structure={"a": ["a"]}),
    "a tokenizer's class": part("sentence_transformers.models.WordEmbeddings", tokenizer_class="sentence_transformers.base.model.pickle"),
    "a part elsewhere": part("sentence_transformers.models.Normalize", "../x"), "a part at /": part("sentence_transformers.models.Normalize", "/etc"),
    "a kernel": lambda f: change(f, "config.json", _attn_implementation="evil/kernel"),
    "a pickle": pickled, "a bare pickle": lambda f: pickled(f, raw=True),
    "an adapter's pickle": lambda f: (pickled(f), (f / "pytorch_model.bin").rename(f / "adapter_model.bin"), change(f, "adapter_config.json",
        peft_type="LORA", r=2, target_modules=["query"], base_model_name_or_path=str(f.parent / "good"))),
    "an adapter of itself": lambda f: change(f, "adapter_config.json", peft_type="LORA", r=2, base_model_name_or_path=str(f)),
    "a config of 100 MB": lambda f: (f / "config.json").write_text('{"a": "' + "x" * 100_000_000 + '"}'),
    "a tokenizer of 2 GB": lambda f: cut(f, "tokenizer.json", 2 << 30), "weights of 4 TB": lambda f: header(f, tensor("U8", [4 * 10**12], 4 * 10**12), 4 * 10**12),
    "a header of 10 TB": lambda f: header(f, {}, length=10**13), "a claim of 4 TB": lambda f: header(f, tensor("F32", [10**6, 10**6], 4 * 10**12)),
    "a wrong shape": lambda f: header(f, tensor("F32", [10**6, 10**6], 16), 16), "half of the weights": lambda f: cut(f, "model.safetensors", 9000),
    "no list of parts": lambda f: (f / "modules.json").write_text("{}"), "numbers as parts": lambda f: (f / "modules.json").write_text("[1, 2]"),
    "a nest of parts": lambda f: (f / "modules.json").write_text("[" * 100_000), "a list as config": lambda f: (f / "config.json").write_text("[1]"),
    "ten million layers": lambda f: change(f, "config.json", num_hidden_layers=10**7), "ten billion words": lambda f: change(f, "config.json", vocab_size=10**10),
    "a device": lambda f: replaced(f, "config.json", lambda path: path.symlink_to("/dev/zero")), "a pipe": lambda f: replaced(f, "tokenizer_config.json", os.mkfifo),
    "prompts in a list": lambda f: change(f, "config_sentence_transformers.json", prompts=[1]),
}  # fmt: skip
HARMLESS: dict[str, Callable[[Path], Any]] = {
    "auto_map of a known kind": lambda f: (code(f), change(f, "config.json", auto_map={"AutoModel": "evil.T", "AutoConfig": "evil.T"})),
    "auto_map of a tokenizer": lambda f: (code(f), change(f, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})),
    "an activation": lambda f: change(f, "config.json", sentence_transformers={"activation_fn": "os.getcwd"}),
    "a template": lambda f: change(f, "tokenizer_config.json", chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "links in a circle": lambda f: ((f / "sub").symlink_to(f), (f / "a.json").symlink_to(f / "b.json"), (f / "b.json").symlink_to(f / "a.json")),
}  # fmt: skip


def test_models(tmp_path: Path, monkeypatch, tally) -> None:
    "Every bad folder is refused in a line, within seconds, and no code of any folder runs."
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    from disti.crossencoders import load_cross_encoder, new_cross_encoder
    from disti.models import load_student
    from disti.tiny import tiny_encoder

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 99))  # to whom asks: run the code?
    tiny_encoder(tmp_path / "encoder", ["the quick brown fox"] * 3)
    body = Transformer(str(tmp_path / "encoder"))
    SentenceTransformer(modules=[body, Pooling(32, "mean")], device="cpu").save_pretrained(str(tmp_path / "good"))
    wrong, loaders = [], {"student": load_student, "cross-encoder": load_cross_encoder, "new": new_cross_encoder}
    for name, act in (MODELS | HARMLESS).items():
        for how, load in loaders.items():
            folder = tmp_path / "bad"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(tmp_path / "good", folder)
            act(folder)
            began = time.monotonic()
            error = raises(lambda load=load, folder=folder: load(str(folder), device="cpu"))
            fine = refused(error) if error else name in HARMLESS or how == "new" and name.startswith("prompts")
            if not fine or (tmp_path / "PWNED").exists() or time.monotonic() - began > 20:
                wrong.append(f"{name}, {how}: {type(error).__name__}: {str(error)[:200]}")
            (tmp_path / "PWNED").unlink(missing_ok=True)
    assert not wrong, "\n".join(wrong)
    tally("models of others", tries=3 * len(MODELS | HARMLESS), wrong=len(wrong))


def test_chat_templates_are_sandboxed() -> None:
    "What transformers promises, held to it."
    from jinja2.exceptions import SecurityError
    from transformers.utils.chat_template_utils import render_jinja_template

    with pytest.raises(SecurityError):
        render_jinja_template(
            [[{"role": "user", "content": "x"}]], chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}"
        )
