"""A head of full size, 151936 x 4096 bf16 unless told otherwise, and hidden states for it.

The values are random; the shape, the dtype and the two files with an index are those of a large
Qwen3. Written piece by piece, so memory does not grow with the shape. Needs numpy only.
"""

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import safetensors_file as st

SEED = 20261122
SIGMA = 0.02  # of the weight; hidden states have sigma 1
PIECE = 1 << 20  # values generated and written at a time
HEAD = "lm_head.weight"
NORM = "model.norm.weight"


def fill_normal(path: Path, place: int, count: int, sigma: float, stream: int) -> None:
    """Write `count` bf16 values; each piece has a seed of its own, so threads change nothing."""

    def write_piece(first: int) -> None:
        rng = np.random.Generator(np.random.SFC64([SEED, stream, first]))
        values = rng.standard_normal(min(PIECE, count - first), dtype=np.float32)
        values *= np.float32(sigma)
        st.put(path, place + 2 * first, st.bf16(values).values)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(write_piece, range(0, count, PIECE)):
            pass  # a worker's error is raised here


def write_checkpoint(out: Path, vocab_size: int, hidden_size: int) -> None:
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    norm_file, head_file = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    values = vocab_size * hidden_size
    st.write(out / norm_file, {NORM: st.bf16(np.ones(hidden_size))})
    places = st.create(out / head_file, {HEAD: ("BF16", (vocab_size, hidden_size))})
    fill_normal(out / head_file, places[HEAD], values, SIGMA, stream=0)
    index = {
        "metadata": {"total_size": 2 * (hidden_size + values)},
        "weight_map": {NORM: norm_file, HEAD: head_file},
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_captured(path: Path, rows: int, vocab_size: int, hidden_size: int) -> None:
    shape = (rows, hidden_size)
    places = st.create(path, {"hidden_states": ("BF16", shape), "token_ids": ("I64", (rows,))})
    fill_normal(path, places["hidden_states"], math.prod(shape), 1.0, stream=1)
    ids = np.random.default_rng(SEED).integers(0, vocab_size, rows, dtype=np.int64)
    st.put(path, places["token_ids"], ids)


def write_full_size(out: Path, shape: tuple[int, int], rows: int) -> None:
    vocab_size, hidden_size = shape
    out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out, vocab_size, hidden_size)
    write_captured(out / "captured.safetensors", rows, vocab_size, hidden_size)
