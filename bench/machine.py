"""What the benches beside this file share: random encoders of real sizes, and what this machine can do at best."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from disti.linear import PackedLinear, works
from disti.tiny import tiny_encoder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIZES = {  # XLM-R, as BGE-M3 and bge-reranker-v2-m3 are built
    "tiny": dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128),
    "xlm-r-large": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}


def random_encoder(folder: str | Path, texts: Sequence[str], size: str, auto: Any = AutoModel, **config: Any) -> str:
    "Save random weights of a size, with a tokenizer trained on some texts."
    torch.manual_seed(0)
    tiny_encoder(folder, texts, kind="xlm-roberta")
    built = AutoConfig.from_pretrained(folder, max_position_embeddings=514, **SIZES[size], **config)
    auto.from_config(built).save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder, model_max_length=512).save_pretrained(folder)
    return str(folder)


def synchronize() -> None:
    "Wait for the GPU."
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def flops_of(config: Any, lengths: Sequence[int]) -> float:
    "Floating-point operations of one forward pass over texts of so many tokens, padding left out."
    layer = 8 * config.hidden_size**2 + 4 * config.hidden_size * config.intermediate_size
    return sum(config.num_hidden_layers * n * (layer + 4 * n * config.hidden_size) for n in lengths)


def limit_of(config: Any, device: str, precision: str, clock: Callable[[], float] = time.perf_counter) -> float:
    "Operations a second of the fastest linear layer of a model's shape."
    hidden, wide, best = config.hidden_size, config.intermediate_size, 0.0
    rows = 1024 if device == "cpu" else 16384
    x = torch.randn(rows, hidden, device=device, dtype=DTYPES[precision])
    layers: list[torch.nn.Module] = [torch.nn.Linear(hidden, wide, device=device, dtype=DTYPES[precision])]
    if device == "cpu" and works(linear := torch.nn.Linear(hidden, wide), DTYPES[precision]):
        layers.append(PackedLinear(linear, DTYPES[precision]))
    with torch.inference_mode():
        for layer in layers:
            for _ in range(20):
                synchronize()
                started = clock()
                layer(x)
                synchronize()
                best = max(best, 2 * rows * hidden * wide / max(clock() - started, 1e-9))
    return best
