"""The five systems: their recipes say what they promise, and each passes whole with small stand-ins.

One of them runs in `make test`; DISTI_SYSTEMS=full runs all five, DISTI_SYSTEMS=projection,bge-m3 those two.
"""

import json
import math
import os
import sys
from pathlib import Path

import pytest
from conftest import ROOT, call

from disti.recipe import job_values, read_recipe, resolve_recipe
from disti.scales import models_measured

SYSTEMS = ("bge-m3", "projection", "hybrid-selective", "search-service", "cross-encoder-lora")
ASKED = os.environ.get("DISTI_SYSTEMS", "bge-m3")
RUN = SYSTEMS if ASKED == "full" else tuple(ASKED.split(","))
ENV = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}


def disti(*words: str, cwd: Path):
    "The command, in a folder of its own."
    return call(sys.executable, "-m", "disti", *words, cwd=cwd, env=ENV)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A project's folder for all systems: data and stand-ins are made once."
    return tmp_path_factory.mktemp("systems")


def full(name: str):
    "A recipe as it is run on real models."
    return resolve_recipe(read_recipe(ROOT / "recipes" / f"{name}.yaml"))


def read(path: Path):
    "A file of JSON, or of a row a line."
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def test_the_recipes_name_what_their_sources_do() -> None:
    bge = full("bge-m3")
    assert bge["model"] == "BAAI/bge-m3" and bge["teacher"] == "BAAI/bge-reranker-v2.5-gemma2-lightweight"
    minicpm = job_values(bge, "score", scorer="teacher-minicpm")
    assert minicpm["teacher"] == "BAAI/bge-reranker-v2-minicpm-layerwise" and minicpm["with_bm25"] is False
    assert job_values(bge, "score", scorer="teacher")["normalise"] == "raw"
    ways = {
        (v["loss"][15:19].rstrip(","), v.get("steps") or f"{v.get('epochs', 0):g} epoch")
        for v in bge["students"].values()
        if v["stage"] == "distill"
    }
    assert {(s, n) for s in ("0.05", "0.2") for n in (200, 300, 500, "1 epoch")} <= ways
    assert len({bge["collection"], *bge["sets"].split()}) == 9 and bge["bm25_tokenizer"] == "student"
    assert {"dense", "bm25"} <= {v.get("miners") for v in bge["students"].values()}

    projected = job_values(full("projection"), "align", "projected")
    assert [projected[key] for key in ("head", "hidden", "mse", "mse2", "n_negatives", "layers")] == [
        "mlp",
        1536,
        0.4,
        0.2,
        0,
        "",
    ]
    assert "freeze_words=False" in projected["fit"]

    student = job_values(full("hybrid-selective"), "distill", "student_model_sd")
    assert [student[key] for key in ("keep", "head", "dimensions")] == ["percentile 80", "unit", 256]
    assert student["loss"].startswith("hybrid") and "warmup=0.1" in student["fit"]

    service = full("search-service")
    assert (service["model"], service["query_prompt"], service["passage_prompt"]) == (
        "intfloat/e5-small-v2",
        "query: ",
        "passage: ",
    )
    assert service["students"]["distilled"]["loss"] == "0.6 margin_mse + 0.2 list_net + 0.2 info_nce"
    assert (service["max_eval_queries"], service["max_docs"]) == (603, 10000)

    lora = full("cross-encoder-lora")
    teach = job_values(lora, "teach")
    assert [teach[key] for key in ("method", "lora_r", "lora_alpha", "lora_dropout", "n_folds")] == [
        "lora",
        32,
        64,
        0.1,
        1,
    ]
    assert [job_values(lora, "distill", name)["n_negatives"] for name in ("k8", "k16")] == [7, 15]
    quick = resolve_recipe(read_recipe("cross-encoder-lora"), "quick")
    assert (
        quick["max_queries"] == 2000
        and list(quick["students"]) == ["k8"]
        and quick["students"]["k8"]["n_negatives"] == 3
    )
    assert job_values(quick, "teach")["lora_r"] == 16 and job_values(quick, "teach")["epochs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_snakemake_plans_it(name: str, place: Path) -> None:
    "The plain command, without disti's own around it: it makes the stand-ins itself."
    words = (
        "-n",
        "--quiet",
        "rules",
        "--cores",
        "1",
        "--directory",
        str(place),
        "--snakefile",
        str(ROOT / "Snakefile"),
    )
    recipe = ("--configfile", str(ROOT / "recipes" / f"{name}.yaml"), "--config", "scale=smoke")
    done = call(sys.executable, "-m", "snakemake", *words, *recipe, cwd=place, env=ENV)
    assert done.returncode == 0, done.stdout[-2000:]


def bge_m3(home: Path) -> None:
    "Two teachers of the same lists, students of parts of them, a further set, the reranker in fewer bits."
    from sentence_transformers import SentenceTransformer

    two = [read(home / f"teacher-score{name}" / "train.jsonl") for name in ("", "-minicpm")]
    assert [row["doc_ids"] for row in two[0]] == [row["doc_ids"] for row in two[1]]
    assert two[0][0]["scores"] != two[1][0]["scores"]
    mined = read(home / "student-score" / "plain-200-train.jsonl")
    assert {row["query_id"] for row in mined} == {row["query_id"] for row in two[0]}
    ways = {row["_id"]: row["how"] for row in read(home / "synthetic" / "queries.jsonl")}
    assert {ways[row["query_id"]] for row in two[0]} == {"leads", "phrases"}
    sets = {path.parent.name for path in home.glob("results/*/*/measures.jsonl")}
    assert sets == {"demo", "demo-networkx"}
    comparison = read(home / "results" / "comparison.json")
    assert {"bm25", "untrained", "teacher", "teacher-minicpm"} <= {row["model"] for row in comparison["rows"]}
    assert [each["collection"] for each in comparison["others"]] == ["demo-networkx"]
    assert (home / "results" / "comparison.md").read_text().count("## Comparison on ") == 2
    bits = read(home / "benchmark" / "quantize-gemma2.json")
    assert bits["kind"] == "flag_reranker" and [way["way"] for way in bits["ways"]] == ["fp32", "bf16"]
    assert all("failed" not in way and way["size_mb"] > 0 for way in bits["ways"])
    assert (home / "gap" / "gap_report.md").exists() and "bm25" in (home / "case-study" / "cases.md").read_text()
    model = SentenceTransformer(str(home / "models" / "plain-200"), device="cpu")
    assert model[1].pooling_mode == "cls" and model.encode(["sort"]).shape == (1, 32)


def projection(home: Path) -> None:
    "The parts load without disti, and together they are the student."
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer
    from torch import nn

    parts = home / "models" / "projected-parts"
    state = torch.load(parts / "projection_layer.pt", weights_only=True)
    head = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 48))
    head.load_state_dict(state)
    base, whole = (
        SentenceTransformer(str(path), device="cpu") for path in (parts / "student_base", home / "models" / "projected")
    )
    texts = ["sort an array in place", "open a socket"]
    with torch.no_grad():
        made = head(torch.from_numpy(base.encode(texts))).numpy()
    cosines = (
        (made * whole.encode(texts)).sum(1) / np.linalg.norm(made, axis=1) / np.linalg.norm(whole.encode(texts), axis=1)
    )
    assert np.abs(cosines - 1).max() < 1e-5
    spaces = {row["model"] for row in read(home / "results" / "projected" / "demo" / "spaces.jsonl")}
    assert spaces == {"untrained", "student base", "student", "student, teacher's index", "teacher"}
    facts = read(home / "models" / "projected.meta.json")["facts"]
    assert facts["cosine_after"] > facts["cosine_before"]


def hybrid_selective(home: Path) -> None:
    "A fifth of the pairs, labels with texts, a student of 256 numbers, and the statistics."
    from sentence_transformers import SentenceTransformer

    soft = read(home / "teacher-score" / "teacher_soft_labels.json")
    assert soft["n_pairs"] == len(soft["pairs"]) == 200 and soft["teacher"]["scale"] == "cosine"
    assert all(-1 <= pair["score"] <= 1 and pair["query"] and pair["document"] for pair in soft["pairs"])
    fates = read(home / "models" / "student_model_sd.ledger.jsonl")
    assert len(fates) == 200 and sum(row["kept"] for row in fates) == 40
    least = min(row["score"] for row in fates if row["kept"])
    assert least >= max(row["score"] for row in fates if not row["kept"])
    vectors = SentenceTransformer(str(home / "models" / "student_model_sd"), device="cpu").encode(["sort"])
    assert vectors.shape == (1, 256) and math.isclose(float((vectors**2).sum()), 1, rel_tol=1e-5)
    near = read(home / "results" / "student_model_sd" / "demo" / "bi_encoder_evaluation_results.json")
    assert {"Pearson", "Spearman", "mae", "f1"} <= near.keys()
    test = read(home / "results" / "comparison.json")["tests"][0]
    assert {"t", "p_t", "p_wilcoxon", "d_z", "d_pooled"} <= test.keys()


def search_service(home: Path) -> None:
    "Prompts go all the way, the teacher filters negatives, and the table has before, after, teacher and gap."
    from sentence_transformers import SentenceTransformer

    prompts = SentenceTransformer(str(home / "models" / "distilled"), device="cpu").prompts
    assert (prompts["query"], prompts["document"]) == ("query: ", "passage: ")
    assert any(row.get("teacher") is not None for row in read(home / "hard-negative" / "ledger.jsonl"))
    rows = {row["model"]: row for row in read(home / "results" / "comparison.json")["rows"]}
    assert {"untrained", "distilled", "teacher", "bm25"} <= rows.keys()
    kept = read(home / "results" / "distilled" / "demo" / "evaluation.json")
    assert "retention" in kept and kept["compact"][1]["form"] == "int8"
    assert read(home / "benchmark" / "quantize-distilled.json")["ways"][0]["pairs_a_second"] > 0


def cross_encoder_lora(home: Path) -> None:
    "Both adapters load in PEFT, with their settings beside them."
    from peft import PeftConfig
    from PIL import Image
    from sentence_transformers import CrossEncoder, SentenceTransformer

    for name in ("teacher-0-adapter", "k8-adapter"):
        told, config = (
            read(home / "models" / name / "lora_config.json"),
            PeftConfig.from_pretrained(str(home / "models" / name)),
        )
        assert (told["lora_r"], told["lora_alpha"], told["lora_dropout"]) == (32, 64, 0.1) == (
            config.r, config.lora_alpha, config.lora_dropout)  # fmt: skip
    merged, adapted = (CrossEncoder(str(home / "models" / f"teacher-0{end}"), device="cpu") for end in ("", "-adapter"))
    pair = [("sort an array", "It sorts the array.")]
    assert abs(float(merged.predict(pair)[0]) - float(adapted.predict(pair)[0])) < 1e-4
    assert SentenceTransformer(str(home / "models" / "k8"), device="cpu").prompts["query"].startswith("Instruct: ")
    folder = home / "results" / "k8" / "demo"
    said = read(folder / "bi_encoder_evaluation_results.json")
    assert {"positive", "negative", "margin", "score_variance", "samples"} <= said.keys()
    assert Image.open(folder / "bi_encoder_evaluation_analysis.png").size[0] > 300
    objective = read(home / "models" / "k8.meta.json")["facts"]["objective"]
    for part in ("probability=True", "tau_teacher=0.2", "0.3 contrastive_margin", "0.4 negative_penalty"):
        assert part in objective, objective
    assert any(row["check"] == "folds" for row in read(home / "findings.jsonl")), "one teacher labels what it has seen"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_system_runs_whole(name: str, place: Path) -> None:
    done = disti("pipeline", str(ROOT / "recipes" / f"{name}.yaml"), "--set", "scale=smoke", "--cores", "2", cwd=place)
    assert done.returncode == 0, done.stdout[-3000:]
    home = place / "artifacts" / f"{name}-smoke"
    measured = models_measured(resolve_recipe(read_recipe(name), "smoke"))
    rows = read(home / "results" / "comparison.json")["rows"]
    assert sorted(row["model"] for row in rows) == sorted(measured)
    globals()[name.replace("-", "_")](home)
    again = disti("pipeline", str(ROOT / "recipes" / f"{name}.yaml"), "--set", "scale=smoke", cwd=place)
    assert again.returncode == 0 and "nothing to do: every result is up to date" in again.stdout, again.stdout[-2000:]
