"Import and export: there and back, what is wrong with a file, memory that does not grow with it, kills."

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from disti.data import load_collection
from disti.exports import Wanted, export_data
from disti.imports import Asked, import_data
from disti.imports import main as import_main
from disti.lists import Reading
from disti.pairs import TrainingPairs, load_finetune
from disti.records import read_rows, write_rows
from disti.run import main as disti

BESIDE = ROOT.parent / "shared" / "data"
SIGNS = [
    "鱼和熊掌",
    "Größe ß",
    'say "no"',
    "a;b,c|d",
    "zwei\nZeilen",
    "win\r\nend",
    "tab\there",
    "[1]",
    '["a", "b"]',
    "= sum",
    "x > 2",
]


def text(seed: random.Random) -> str:
    "A text with what breaks tables."
    return " ".join(seed.choices([*SIGNS, *(f"word{n}" for n in range(50))], k=seed.randint(3, 12)))


def rows(n: int, seed: int, scores: bool = False, same: int = 0) -> list[dict]:
    "Training pairs: several answers, none to four negatives (or `same`), graded and scored."
    dice, made = random.Random(seed), []
    for i in range(n):
        wrong = [f"{text(dice)} n{i}.{j}" for j in range(same or dice.randint(0, 4))]
        for answer in range(dice.choice((1, 1, 2))):
            row: dict = {"anchor": f"{text(dice) if not answer else made[-1]['anchor']}{f' {i}' if not answer else ''}"}
            row |= {"positive": f"{text(dice)} p{i}.{answer}"} | ({"negatives": wrong} if wrong else {})
            if scores:
                row |= {"positive_score": dice.uniform(-9, 9)}
                row |= {"negative_scores": [dice.uniform(-9, 9) for _ in wrong]} if wrong else {}
            made.append(row)
        first = [row for row in made if row["anchor"] == made[-1]["anchor"]][0]
        if scores and wrong:  # one list has one score for each negative
            made[-1]["negative_scores"] = first["negative_scores"]
    return made


def content(pairs: TrainingPairs) -> dict[str, tuple[set[str], set[str]]]:
    "A finetune file as the mining reads it: question → answers, negatives; by text."
    return {
        text: ({pairs.passages[d] for d in pairs.qrels[q]}, {pairs.passages[d] for d in pairs.negatives[q]})
        for q, text in pairs.queries.items()
    }


LOSSLESS = [("flagembedding", ".jsonl", ""), ("flagembedding", ".parquet", "")] + [
    (kind, ending, shape)
    for kind, ending in (
        ("csv", ".csv"),
        ("csv", ".tsv"),
        ("sentence-transformers", ".parquet"),
        ("sentence-transformers", ""),
    )
    for shape in ("labelled-lists", "labelled-pairs")
]


@pytest.mark.parametrize("kind, ending, shape", LOSSLESS)
def test_pairs_come_back_equal(kind: str, ending: str, shape: str, tmp_path: Path) -> None:
    own = rows(120, seed=len(ending), scores=True)
    write_rows(tmp_path / "finetune/own.jsonl", own, "finetune")
    out = tmp_path / f"out{ending}"
    split = "train" if not ending else ""
    export_data(Wanted(kind, "own", out, tmp_path, shape=shape, split=split, ending=ending))
    import_data(Asked(kind, out, "back", tmp_path))
    back = read_rows(tmp_path / "finetune/back.jsonl", "finetune")
    assert back == own
    export_data(Wanted(kind, "back", tmp_path / f"again{ending}", tmp_path, shape=shape, split=split, ending=ending))
    if ending in (".jsonl", ".csv", ".tsv"):
        assert (tmp_path / f"again{ending}").read_bytes() == out.read_bytes()
    scored = read_rows(tmp_path / "scored/back/train.jsonl", "scored")
    assert len(scored) == len({row["anchor"] for row in own}) and all(row["scorer"] == "given" for row in scored)


@pytest.mark.parametrize("shape", ["pairs", "triplets", "n-tuples"])
def test_smaller_shapes_come_back_equal(shape: str, tmp_path: Path) -> None:
    own = rows(80, seed=3, same=3)
    write_rows(tmp_path / "finetune/own.jsonl", own, "finetune")
    out = tmp_path / "out.csv"
    lines = export_data(Wanted("sentence-transformers", "own", out, tmp_path, shape=shape, split="train"))
    import_data(Asked("sentence-transformers", out, "back", tmp_path))
    kept = [{"anchor": row["anchor"], "positive": row["positive"]} for row in own] if shape == "pairs" else own
    assert read_rows(tmp_path / "finetune/back.jsonl") == kept
    assert ("questions lose their negatives" in "\n".join(lines)) == (shape == "pairs")


@pytest.mark.parametrize("name", ["scifact", "cmrc2018", "legalquad"])
def test_collections_come_back_equal(name: str, tmp_path: Path) -> None:
    if not (BESIDE / "eval" / name).exists():
        pytest.skip("real collections are not beside the project")
    export_data(Wanted("beir", name, tmp_path / "beir", BESIDE), add=True)
    import_data(Asked("beir", tmp_path / "beir", name, tmp_path))
    one, two = (load_collection(folder / "eval" / name) for folder in (BESIDE, tmp_path))
    assert one.queries == two.queries and one.qrels == two.qrels and one.corpus.items() <= two.corpus.items()
    if (BESIDE / f"finetune/{name}.jsonl").exists():
        first, second = (load_finetune(d / f"finetune/{name}.jsonl", c) for d, c in ((BESIDE, one), (tmp_path, two)))
        assert content(first) == content(second)
    export_data(Wanted("trec", name, tmp_path / "trec", BESIDE))
    import_data(Asked("trec", tmp_path / "trec", name, tmp_path), replace=True)
    assert load_collection(tmp_path / "eval" / name).qrels == one.qrels


def test_split_tables_become_a_collection(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("valid", 10), ("test", 20)):
        lines = [f'"wer, {n}?",antwort {n},falsch {n}' for n in range(start, start + 10)]
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / f"set/{split}.csv").write_text("\n".join(["query,positive,negative", *lines]) + "\n", "utf-8-sig")
    import_main([str(tmp_path / "set"), "--name", "faq", "--data-dir", str(tmp_path)])
    test, dev = (load_collection(tmp_path / "eval/faq", split=split) for split in ("", "dev"))
    assert len(test.corpus) == 60 and len(test.queries) == 10 == len(dev.queries)
    assert sum(grade for docs in test.qrels.values() for grade in docs.values()) == 10
    assert read_rows(tmp_path / "finetune/faq.jsonl")[0] == {
        "anchor": "wer, 0?", "positive": "antwort 0", "negatives": ["falsch 0"],
    }  # fmt: skip
    export_data(Wanted("csv", "faq", tmp_path / "out", tmp_path))
    import_data(Asked("csv", tmp_path / "out", "again", tmp_path))
    for name in ("corpus", "queries", "queries-dev", "relevance-dev"):
        one, two = (
            sorted(map(json.dumps, read_rows(tmp_path / f"eval/{each}/{name}.jsonl"))) for each in ("faq", "again")
        )
        assert one == two


WRONG = [
    ("a.csv", "Frage;Antwort\na;b\n", "line 2: the columns are 'Frage', 'Antwort'; needed are query and positive"),
    ("a.csv", "query,positive\na,b,c\n", "line 2: 3 cells where the header has 2"),
    ("a.csv", 'query,positive\n"a,b\n', "line 2: unexpected end of data; a quotation mark"),
    ("a.csv", "query,passage,label\na,b,maybe\n", "line 2: 'label' is 'maybe'; write a number"),
    ("a.csv", "query,passage,score\na,b,0.7\n", "line 2: a score of 0.7 does not say .* --relevant best"),
    ("a.jsonl", '{"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [1]}\n', "line 1: scores of one side alone"),
    ("a.jsonl", '{"query": "a", "positive": 7}\n', "line 1: a text is wanted, got int '7'"),
    ("a.jsonl", '{"query": "a\\ud800", "positive": "b"}\n', "line 1: 'anchor' holds half a character"),
    ("a.jsonl", '[{"query": "a", "positive": "b"}]\n', "line 1: a row is an object of names and values"),
    ("a.txt", "q1 0 d1 1\nq1 0 d1 2\n", "line 2: query 'q1' judges 'd1' as 1 and 2"),
    ("a.parquet", "PAR1", "not a whole Parquet file"),
]


@pytest.mark.parametrize("name, words, message", WRONG)
def test_a_wrong_file_is_one_line_and_leaves_nothing(name, words, message, tmp_path, capsys) -> None:
    (tmp_path / name).write_text(words)
    assert disti(["import", str(tmp_path / name), "--name", "x", "--data-dir", str(tmp_path / "data")]) == 1
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert re.search(message, said), said
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != name]


def test_a_limit_makes_lists_of_scores(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"query": "q", "docs": ["a", "b", "c"], "scores": [0.9, 0.2, 0.4]}\n')
    for relevant, right in (("best", ["a"]), ("0.4", ["a", "c"])):
        how = Reading(relevant=relevant, scorer="bge")
        import_data(Asked("sentence-transformers", tmp_path / "a.jsonl", f"x{len(right)}", tmp_path, how=how))
        made = read_rows(tmp_path / f"scored/x{len(right)}/train.jsonl", "scored")[0]
        assert made["scores"] == [0.9, 0.2, 0.4] and made["scorer"] == "bge"
        assert [row["positive"] for row in read_rows(tmp_path / f"finetune/x{len(right)}.jsonl")] == right


LIMIT = """
import sys
from pathlib import Path
from disti.imports import Asked, import_data
from disti.exports import Wanted, export_data
folder, kind, path = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
import_data(Asked(kind, path, "big", folder))
export_data(Wanted(kind, "big", folder / ("out" if kind == "beir" else "out.jsonl"), folder))
status = Path("/proc/self/status").read_text()  # getrusage counts what the parent had at the fork
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def peak(folder: Path, kind: str, path: Path) -> float:
    "Megabytes that an import and an export took at most."
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LIMIT, folder, kind, path], text=True, capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.strip().splitlines()[-1])


def big(folder: Path, kind: str, n: int) -> Path:
    "A file or folder of about `n` kilobytes."
    filler = "word " * 190
    if kind == "flagembedding":
        lines = ({"query": f"q {i}", "pos": [f"{filler}{i}"], "neg": [f"{filler}{i} no"]} for i in range(n // 2))
        return write_rows(folder / f"{n}.jsonl", lines)
    made = folder / f"beir{n}"
    write_rows(made / "corpus.jsonl", ({"_id": f"d{i}", "text": f"{filler}{i}"} for i in range(n)), "corpus")
    write_rows(made / "queries.jsonl", ({"_id": f"q{i}", "text": f"question {i}"} for i in range(200)), "queries")
    (made / "qrels").mkdir()
    (made / "qrels/test.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(200)))
    return made


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("kind", ["beir", "flagembedding"])
def test_memory_does_not_grow_with_the_file(kind: str, tmp_path: Path) -> None:
    small, large = (peak(tmp_path / str(n), kind, big(tmp_path, kind, n)) for n in (1_000, 31_000))
    print(kind, small, large)
    assert large - small < 15, f"{large - small:.0f} MB more for 30 MB more"
    assert large < 500


def test_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    set_ = big(tmp_path, "beir", 20_000)
    words = [sys.executable, "-m", "disti", "import", "beir", str(set_), "--name", "x"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, cwd=tmp_path, env=env)
    hidden = tmp_path / "data"
    while process.poll() is None and not list(hidden.glob(".import-x.*")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (hidden / "eval").exists() and list(hidden.glob(".import-x.*")), "nothing came into place"
    assert subprocess.run(words, cwd=tmp_path, env=env, capture_output=True).returncode == 0
    assert len(load_collection(hidden / "eval/x").corpus) == 20_000 and not list(hidden.glob(".import-x.*"))
