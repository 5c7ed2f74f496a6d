"""Greedy tokens of the example model in vLLM, with the logprobs of isologit's head."""

import os

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

import torch
from vllm import LLM, SamplingParams

torch.cpu._init_amx()  # vLLM 0.32 forgets it for models as small as this one

engine = LLM("examples/tiny-qwen3", enforce_eager=True, max_model_len=256, additional_config={"isologit": {}})
params = SamplingParams(temperature=0, max_tokens=3, logprobs=0)
(output,) = engine.generate(["In the beginning"], params, use_tqdm=False)
for token, returned in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True):
    print(token, returned[token].decoded_token, f"{returned[token].logprob:.9g}")
print(engine.collective_rpc("isologit_state"))
