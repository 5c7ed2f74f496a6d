"""What is run: the model, how much of it, and with which heads and bodies. Imported before torch, which reads the
environment when it is."""

import os
from pathlib import Path
from typing import NamedTuple

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",  # the tensors are tiny
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # compiling vLLM's small helpers would take longer than the run
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

MODEL = Path(__file__).resolve().parents[1] / "tiny-qwen3"
PROMPT_TOKENS, NEW_TOKENS = 8, 16
PROMPTS, GROUP = 8, 8  # completions a step: PROMPTS groups of GROUP
LEARNING_RATE = 5e-4


class Run(NamedTuple):
    """f32: the packages' own heads in f32, else in bf16. scope: that of isologit on both sides, "" for none."""

    label: str
    f32: bool = False
    scope: str = ""


RUNS = {
    "bf16": Run("stock, bf16 heads"),
    "f32": Run("stock, f32 heads", f32=True),
    "isologit": Run("isologit heads", scope="head"),
    "isologit-model": Run("isologit, whole model", scope="model"),
}
