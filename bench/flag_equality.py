"""Do our layerwise rerankers give FlagEmbedding's scores? Tiny random weights, two environments, one folder.

    python bench/flag_equality.py write FOLDER                  # here: models and our scores
    FLAGENV/bin/python bench/flag_equality.py reference FOLDER  # FlagEmbedding==1.3.5 transformers==4.46.3 "numpy<2.3"
    python bench/flag_equality.py compare FOLDER                # here: a table and, as last line, one JSON object

FlagEmbedding 1.3.5 says that its lightweight class needs transformers 4.46; disti needs 5, hence two environments.
"""

import json
import sys
from pathlib import Path

import numpy as np

LIGHT = [  # cutoff, layers to compress at, ratio, attention of the reference
    (8, [], 1, "sdpa"),
    (8, [], 1, "eager"),
    (5, [], 1, "eager"),
    (2, [], 1, "eager"),
    (8, [1], 2, "eager"),
    (8, [2, 4], 2, "eager"),
    (8, [2, 4, 6], 4, "eager"),
    (5, [2, 4], 8, "eager"),
    (8, [2, 4], 2, "sdpa"),
    (3, [1, 2], 4, "sdpa"),
]
LAYERED = [8, 5, 3, 2]  # cutoff
LONG = "sort array"  # the query of the pairs that are cut
LIMIT = 128  # tokens of one text in FlagEmbedding; ours counts the whole prompt
WORDS = "sort read open array socket file copy list return function element order value index number string".split()


def pairs(n: int = 40) -> list[tuple[str, str]]:
    "Pairs of different lengths; the last four are longer than the limit, with one query."
    rng = np.random.default_rng(0)
    short = [
        (" ".join(rng.choice(WORDS, rng.integers(2, 9))), " ".join(rng.choice(WORDS, k)) + ".")
        for k in rng.integers(1, 60, n - 4)
    ]
    return [*short, *((LONG, " ".join(rng.choice(WORDS, k)) + ".") for k in (300, 400, 500, 600))]


def write(folder: Path) -> None:
    "Models, pairs and our scores."
    from transformers import AutoTokenizer

    from disti.rerankers import GIVEN, TEMPLATES, flag_reranker, llm_reranker
    from disti.tiny import tiny_llm

    texts = [text for pair in pairs() for text in pair] + [GIVEN, "A: B:\n", TEMPLATES["bge-lightweight"].instruction]
    ours = {}
    for kind in ("gemma", "gemma2-lightweight", "minicpm-layerwise"):
        tiny_llm(folder / kind, texts, kind=kind, layers=8)
        saved = json.loads((folder / kind / "tokenizer_config.json").read_text())
        saved = {key: saved.get(key) for key in ("pad_token", "eos_token", "bos_token")}
        (folder / kind / "tokenizer_config.json").write_text(
            json.dumps(saved | {"tokenizer_class": "PreTrainedTokenizerFast"})
        )  # both versions know this class
        tokenizer = AutoTokenizer.from_pretrained(folder / kind)
        template = TEMPLATES["bge-lightweight" if kind == "gemma2-lightweight" else "bge"]
        rest = [f"A: {LONG}", "\n", "\n", template.instruction]
        length = 1 + LIMIT + sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in rest)
        same = {"max_length": length, "precision": "fp32", "device": "cpu"}
        if kind == "gemma":
            ours["gemma"] = llm_reranker(folder / kind, **same)(pairs())
        elif kind == "minicpm-layerwise":
            for cutoff in LAYERED:
                ours[f"minicpm {cutoff}"] = flag_reranker(folder / kind, cutoff_layers=cutoff, **same)(pairs())
        else:
            for cutoff, layers, ratio, attention in LIGHT:
                ours[f"light {cutoff} {layers} {ratio} {attention}"] = flag_reranker(
                    folder / kind,
                    cutoff_layers=cutoff,
                    compress_layers=layers,
                    compress_ratio=ratio,
                    softcap=attention == "eager",
                    **same,
                )(pairs())
    np.savez(folder / "ours.npz", **ours)


def reference(folder: Path) -> None:
    "FlagEmbedding's scores of the same pairs."
    import torch
    from FlagEmbedding.inference.reranker.decoder_only.base import BaseLLMReranker
    from FlagEmbedding.inference.reranker.decoder_only.layerwise import LayerWiseLLMReranker
    from FlagEmbedding.inference.reranker.decoder_only.lightweight import LightweightLLMReranker
    from FlagEmbedding.inference.reranker.decoder_only.models.gemma_model import CostWiseGemmaForCausalLM

    same = {"devices": ["cpu"], "max_length": LIMIT, "batch_size": 7}
    theirs = {"gemma": BaseLLMReranker(str(folder / "gemma"), **same).compute_score(pairs())}
    layered = LayerWiseLLMReranker(str(folder / "minicpm-layerwise"), **same)
    for cutoff in LAYERED:
        theirs[f"minicpm {cutoff}"] = layered.compute_score(pairs(), cutoff_layers=[cutoff])
    light = LightweightLLMReranker(str(folder / "gemma2-lightweight"), **same)
    assert light.model.config._attn_implementation == "sdpa", "FlagEmbedding's own default"
    models = {
        "sdpa": light.model,
        "eager": CostWiseGemmaForCausalLM.from_pretrained(
            folder / "gemma2-lightweight", attn_implementation="eager", torch_dtype=torch.float32
        ),
    }
    for cutoff, layers, ratio, attention in LIGHT:
        light.model = models[attention]
        theirs[f"light {cutoff} {layers} {ratio} {attention}"] = light.compute_score(
            pairs(), cutoff_layers=[cutoff], compress_layers=layers, compress_ratio=ratio
        )
    np.savez(folder / "reference.npz", **{key: np.float32(value).reshape(-1) for key, value in theirs.items()})


def compare(folder: Path) -> None:
    "The largest difference of each setting; the last line is JSON."
    ours, theirs = np.load(folder / "ours.npz"), np.load(folder / "reference.npz")
    apart = {key: float(np.abs(ours[key] - theirs[key]).max()) for key in ours}
    for key, most in apart.items():
        print(f"{key:32} spread {np.ptp(theirs[key]):6.2f}   most apart {most:.1e}")
    families = {
        name: max(value for key, value in apart.items() if key.startswith(name))
        for name in ("gemma", "minicpm", "light")
    }
    print(json.dumps({f"{name}_max_abs_diff": value for name, value in families.items()} | {"pairs": len(pairs())}))


if __name__ == "__main__":
    {"write": write, "reference": reference, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
