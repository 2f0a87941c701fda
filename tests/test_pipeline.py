"The whole demo recipe at smoke size, through Snakemake and papermill: what it must leave behind, with numbers."

import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import BIN, ROOT, call

MODELS = {"bm25", "untrained", "teacher", "distilled", "lora", "full", "small-labels", "small"}


def rows(path: Path) -> list[dict]:
    "The rows of a JSONL file."
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_table_holds_every_model(smoke: Path) -> None:
    table = json.loads((smoke / "results" / "comparison.json").read_text(encoding="utf-8"))
    assert {row["model"] for row in table["rows"]} == MODELS
    for row in table["rows"]:
        assert all(0 <= row[measure] <= 1 for measure in ("nDCG@10", "MRR@10", "Recall@10")) and row["n_queries"] > 0
        assert row["MRR@10"] <= row["nDCG@10"] + 1e-9 <= row["Recall@10"] + 1e-6, (
            "one gold passage a query: MRR ≤ nDCG ≤ Recall"
        )
    assert table["tests"] and all(test["ci_low"] <= test["delta"] <= test["ci_high"] for test in table["tests"])
    assert all(0 < test["p_randomisation"] <= 1 for test in table["tests"])


def test_means_are_those_of_the_measures(smoke: Path) -> None:
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows(smoke / "results" / "measures.jsonl"):
        values.setdefault((row["model"], row["measure"]), []).append(row["value"])
    for row in json.loads((smoke / "results" / "comparison.json").read_text(encoding="utf-8"))["rows"]:
        found = values[row["model"], "nDCG@10"]
        assert len(found) == row["n_queries"] and sum(found) / len(found) == pytest.approx(row["nDCG@10"], abs=1e-3)


@pytest.mark.parametrize("model", ["distilled", "lora", "full", "small-labels", "small"])
def test_loss_falls(smoke: Path, model: str) -> None:
    losses = [row["loss"] for row in rows(smoke / "models" / f"{model}.history.jsonl")]
    third = max(1, len(losses) // 3)
    assert len(losses) > 1 and sum(losses[-third:]) < sum(losses[:third]), f"{model} does not learn: {losses}"


def test_rank_agreement_with_the_teacher_rises(smoke: Path) -> None:
    facts = json.loads((smoke / "models" / "distilled.meta.json").read_text(encoding="utf-8"))["facts"]
    assert facts["agreement_after"] > facts["agreement_before"], facts


def test_the_small_student_has_three_layers_and_comes_nearer_to_full(smoke: Path) -> None:
    for name in ("small", "small-labels"):
        config = json.loads((smoke / "models" / name / "config.json").read_text(encoding="utf-8"))
        assert config["num_hidden_layers"] == 3, name
    facts = json.loads((smoke / "models" / "small.meta.json").read_text(encoding="utf-8"))["facts"]
    assert facts["cosine_after"] > facts["cosine_before"] + 0.05, facts


def test_report_names_every_model(smoke: Path) -> None:
    report = (smoke / "results" / "report.html").read_text(encoding="utf-8")
    assert not [model for model in MODELS if f">{model}<" not in report], "a model is missing from the report"
    assert 'src="http' not in report and "@import" not in report, "the report must hold everything it shows"


def test_every_final_file_has_its_manifest(smoke: Path) -> None:
    for path in (
        "results/comparison.json",
        "results/report.html",
        "models/distilled",
        "teacher-score/train.jsonl",
        "gap/gap.jsonl",
    ):
        manifest = json.loads((smoke / f"{path}.meta.json").read_text(encoding="utf-8"))
        assert manifest["hash"].startswith("sha256:") and manifest["inputs"], f"{path}: {manifest}"
    assert not list(smoke.rglob("*.tmp*")), "a temporary file was left behind"


def test_mining_in_parts_gives_the_same_bytes(smoke: Path) -> None:
    home, other = smoke / "hard-negative", smoke.with_name("smoke-in-parts")
    params = json.loads((home / "groups.jsonl.meta.json").read_text(encoding="utf-8"))["params"]
    done = call(BIN / "disti", "run", "mine", "--json", json.dumps(params | {"run": other.name, "shards": 4}))
    assert done.returncode == 0, done.stdout
    for name in ("groups", "ledger", "candidates-dev", "candidates-test", "leaks"):
        one, two = (folder / f"{name}.jsonl" for folder in (home, other / "hard-negative"))
        assert one.read_bytes() == two.read_bytes() != b"", name
    assert not (other / "hard-negative" / ".parts").exists()
    shutil.rmtree(other)


def test_a_student_has_a_card(smoke: Path) -> None:
    done = call(BIN / "disti", "card", "smoke/distilled", "--license", "mit")
    assert done.returncode == 0, done.stdout
    table = json.loads((smoke / "results" / "comparison.json").read_text(encoding="utf-8"))
    for row in table["rows"]:
        assert f"{row['nDCG@10']:.3f}" in done.stdout, row
    for test in table["tests"]:
        told = f"{test['delta']:+.3f}" in done.stdout.replace("\\", "")
        assert told or "distilled" not in (test["a"], test["b"]), test
    assert "scale smoke" in done.stdout and "model-index" not in done.stdout and str(ROOT) not in done.stdout
    sent = call(BIN / "disti", "push", "smoke/distilled", "me/it", "--license", "mit", "--dry-run")
    names = {
        path.relative_to(smoke / "models/distilled").as_posix()
        for path in (smoke / "models/distilled").rglob("*")
        if path.is_file()
    }
    assert (
        sent.returncode == 0 and {line.split()[-1] for line in sent.stdout.splitlines() if " bytes " in line} == names
    )


def test_a_sweep_is_students(smoke: Path) -> None:
    words = ("--dry-run", "--set", "scale=smoke", "--sweep", "lora.lr=5e-4,2e-3")
    done = call(BIN / "disti", "pipeline", "demo", *words)
    assert done.returncode == 0, done.stdout
    planned = [line.split()[2:] for line in done.stdout.splitlines() if line.startswith("would run")]
    trained = [words[0] for words in planned if words[0].startswith("student_")]
    assert sorted(trained) == ["student_lora-lr-2e-3", "student_lora-lr-5e-4"], done.stdout


def test_second_call_has_nothing_to_do(smoke: Path) -> None:
    before = (smoke / "results" / "comparison.json").stat().st_mtime_ns
    done = call(BIN / "disti", "pipeline", "recipes/demo.yaml", "--set", "scale=smoke", "run=smoke", timeout=300)
    assert done.returncode == 0, done.stdout
    assert (smoke / "results" / "comparison.json").stat().st_mtime_ns == before


def test_the_bench_of_when_tells_the_means_of_a_run(smoke: Path) -> None:
    artifacts = smoke.parent
    done = call(sys.executable, "bench/when.py", smoke.name, "--artifacts", str(artifacts), timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    table = json.loads((smoke / "results" / "comparison.json").read_text(encoding="utf-8"))
    means = {row["model"]: row["nDCG@10"] for row in table["rows"]}
    assert told["smoke: small - small-labels"] == pytest.approx(means["small"] - means["small-labels"], abs=1e-4)
    assert f"| BM25 | {means['bm25']:.3f}" in done.stdout
