"""Rollouts of vLLM on the CPU, with logprobs, as lines of JSON: python rollouts.py MODEL PROMPTS OUT.jsonl

PROMPTS is a text; the first words of its first lines are the prompts.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

from vllm import LLM, SamplingParams  # noqa: E402

SEQUENCES, TOKENS = 8, 64


def main(model: Path, prompts: Path, out: Path) -> None:
    lines = [line.split() for line in prompts.read_text().splitlines()]
    starts = [" ".join(words[:8]) for words in lines if len(words) > 12][:SEQUENCES]
    engine = LLM(str(model), dtype="bfloat16", max_model_len=256, enforce_eager=True, seed=0)
    params = SamplingParams(max_tokens=TOKENS, temperature=1.0, seed=1, logprobs=0, ignore_eos=True)
    outputs = engine.generate(starts, params)
    if os.environ.get("ISOLOGIT_CAPTURE"):
        engine.collective_rpc("isologit_captured")
    with out.open("w") as file:
        for output in outputs:
            made = output.outputs[0]
            steps = zip(made.logprobs, made.token_ids, strict=True)
            line = {
                "prompt_token_ids": list(output.prompt_token_ids),
                "token_ids": list(made.token_ids),
                "logprobs": [step[token].logprob for step, token in steps],
            }
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
