"What `disti check` says of the demo, of collections that lie beside the project, and of what is broken."

import json
import os
from pathlib import Path

import pytest
from conftest import ROOT

from disti.check import check_recipe, exit_code, main
from disti.findings import Finding
from disti.recipe import read_recipe, resolve_recipe

BESIDE = ROOT.parent / "shared" / "data"
FILES = {
    "eval/shop/corpus": '{"_id": "d1", "title": "Tea", "text": "green tea"}\n{"_id": "d2", "text": "black tea"}',
    "eval/shop/queries": '{"_id": "q1", "text": "something to drink"}',
    "eval/shop/relevance": '{"query-id": "q1", "corpus-id": "d1", "score": 1}',
    "finetune/shop": "\n".join(f'{{"anchor": "question {i}", "positive": "answer {i}"}}' for i in range(120)),
}


def look(tmp_path: Path, files: dict[str, str] | None = None, **sets: str) -> list[Finding]:
    "The check of a small collection, some of whose files are changed."
    for name, text in (FILES | (files or {})).items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    made = {"collection": "shop", "data_dir": str(tmp_path), "artifacts": str(tmp_path / "artifacts")} | sets
    return check_recipe(resolve_recipe(read_recipe("demo"), sets=made))


def test_a_small_collection(tmp_path: Path) -> None:
    found = {finding.check: finding for finding in look(tmp_path)}
    assert exit_code(list(found.values())) == 1, "so few queries prove little"
    assert found["dev"].severity == "warn" and "12 queries" in found["dev"].says
    assert {"train", "test", "max_length", "pair_length", "student", "disk"} <= found.keys()


BROKEN = [
    ({"eval/shop/corpus": '{"_id": "d1", "text": 3}'}, {}, "rows", "corpus.jsonl, line 1"),
    ({"eval/shop/queries": '{"_id": "q1"}'}, {}, "rows", "queries.jsonl, line 1"),
    ({"eval/shop/relevance": '{"query-id": "q1", "corpus-id": "d7", "score": 1}'}, {}, "rows", "d7"),
    ({"finetune/shop": '{"anchor": "a"}'}, {}, "rows", "shop.jsonl, line 1"),
    (
        {"finetune/shop": FILES["finetune/shop"] + '\n{"anchor": "Something to  drink?", "positive": "x"}'},
        {},
        "leakage",
        "drink",
    ),
    ({}, {"model": "nobody/at/all"}, "models", "no model folder"),
    ({}, {"teacher": "artifacts/nothing"}, "models", "teacher: no model folder"),
    ({}, {"distilled.loss": "kll"}, "objective", "did you mean kl"),
    ({}, {"lora.loss": "kl"}, "objective", "needs teacher"),
    ({}, {"distilled.keep": "most"}, "objective", "no rule 'most'"),
    ({}, {"distilled.keep": "percentile 180"}, "objective", "between 0 and 100"),
]


@pytest.mark.parametrize(("files", "sets", "check", "words"), BROKEN)
def test_what_is_broken_stops(tmp_path: Path, files: dict, sets: dict, check: str, words: str) -> None:
    stops = [finding for finding in look(tmp_path, files, **sets) if finding.severity == "stop"]
    assert [finding.check for finding in stops] == [check] and words in stops[0].says, stops


def test_dates_in_the_future_stop(tmp_path: Path) -> None:
    look(tmp_path)
    os.utime(tmp_path / "eval" / "shop" / "corpus.jsonl", (4e9, 4e9))
    made = {"collection": "shop", "data_dir": str(tmp_path), "artifacts": str(tmp_path)}
    found = check_recipe(resolve_recipe(read_recipe("demo"), sets=made), quick=True)
    assert [finding.check for finding in found] == ["dates"] and "touch" in found[0].remedy


def test_a_broken_recipe_is_one_finding_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("run: own\nstudents:\n  kl: {stage: distill, lr: -1.0}\n")
    assert main([str(tmp_path / "own.yaml"), "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["exit"] == 2 and "own.yaml, line 3, students.kl.lr" in said["findings"][0]["says"]


@pytest.mark.parametrize("name", ["cmrc2018", "medquad", "scifact", "tatqa"])
def test_collections_beside_the_project(name: str, tmp_path: Path) -> None:
    if not (BESIDE / "finetune" / f"{name}.jsonl").exists():
        pytest.skip(f"{BESIDE} holds no {name}")
    sets = {"collection": name, "data_dir": str(BESIDE), "artifacts": str(tmp_path)}
    found = check_recipe(resolve_recipe(read_recipe("demo"), sets=sets))
    assert exit_code(found) < 2 and {"training passages", "max_length", "dev"} <= {finding.check for finding in found}
