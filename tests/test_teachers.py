"""Every family of scorers, on a tiny model of its real architecture: its scores train a student."""

from pathlib import Path

import numpy as np
import pytest

WORDS = "reverse sort open close read write file array socket path table index merge split join copy".split()
CORPUS = {f"p{i}": f"{word} the {WORDS[i - 3]} of a {WORDS[i - 5]}" for i, word in enumerate(WORDS)}
QUERIES = {f"q{i}": f"{word} a {WORDS[i - 3]}" for i, word in enumerate(WORDS)}
GROUPS = [
    {
        "query_id": f"q{i}",
        "doc_ids": [f"p{(i + step) % len(WORDS)}" for step in (0, 1, 4, 9)],
        "labels": [1, 0, 0, 0],
        "miner": "none",
    }
    for i in range(len(WORDS))
]
FAMILIES = {
    "bert": "cross_encoder",
    "xlm-roberta": "cross_encoder",
    "sentence-bert": "embedding_scorer",
    "gemma": "llm_reranker",
    "qwen3": "llm_reranker",
    "gemma2-lightweight": "flag_reranker",
    "minicpm-layerwise": "flag_reranker",
}


def build(family: str, folder: Path) -> str:
    "A tiny random model of a family, saved as the family's real files are."
    from disti.crossencoders import new_cross_encoder
    from disti.tiny import tiny_encoder, tiny_llm

    texts = [*CORPUS.values(), *QUERIES.values()]
    if FAMILIES[family] in ("llm_reranker", "flag_reranker"):
        return tiny_llm(folder, texts, kind=family)
    base = tiny_encoder(folder / "base", texts, kind="xlm-roberta" if family == "xlm-roberta" else "bert", seed=3)
    if family == "sentence-bert":
        return base
    new_cross_encoder(base, head="cls", max_length=48, device="cpu").save_pretrained(str(folder / "reranker"))
    return str(folder / "reranker")


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_train_a_student(tmp_path: Path, family: str) -> None:
    from disti.claims import stored
    from disti.distill import distil
    from disti.records import read_rows, write_rows
    from disti.score import score_groups
    from disti.scorers import load_scorer
    from disti.store import PairStore
    from disti.tiny import tiny_encoder
    from disti.training import Fit

    options = {"precision": "fp32", "device": "cpu"}
    scorer = load_scorer(FAMILIES[family], build(family, tmp_path / "teacher"), options)
    with PairStore(tmp_path / "pairs.sqlite") as store:
        scored = score_groups(stored(scorer, store), GROUPS, QUERIES, CORPUS)
        assert store.count(scorer.digest) == sum(len(group["doc_ids"]) for group in GROUPS)
    path = write_rows(tmp_path / "scored.jsonl", scored, "scored")
    rows = read_rows(path, "scored")
    assert np.median([np.std(row["scores"]) for row in rows]) > 0
    _, facts = distil(
        rows,
        QUERIES,
        CORPUS,
        model=tiny_encoder(tmp_path / "student", [*CORPUS.values(), *QUERIES.values()]),
        loss="kl",
        n_negatives=3,
        settings=Fit(
            steps=20,
            batch_size=8,
            lr=3e-3,
            precision="fp32",
            lint="warn",  # a random teacher may well contradict the labels
        ),
        checkpoints=tmp_path / "checkpoints",
        history=tmp_path / "student.history.jsonl",
    )
    assert facts["last_loss"] < 0.7 * facts["first_loss"], facts
