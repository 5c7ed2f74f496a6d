"""A vLLM engine with its V2 model runner, in a process of its own: python v2_runner.py MODEL MODE FOLDER.

MODE is vLLM's of logprobs, or "draws" for those of the contract, with processed logprobs.
The runner's kernels are Triton's, and PyPI's Triton compiles none for CPUs. Here they run in Triton's own interpreter,
which is NumPy. What passed the head and what the engine returned is left in the folder, for test_vllm_v2_runner.py.
"""

import os
import sys
import types
from pathlib import Path

os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}

import torch
import triton.backends

# vLLM looks for a backend of this name before it takes Triton for usable.
triton.backends.backends["cpu"] = types.SimpleNamespace(driver=None)
torch.cpu._init_amx()

PROMPTS = ["In the beginning", "Blessed"]
SEED = 3
LONG = "And it came to pass in those days, that there went out a decree from the king, that all the people " * 2
CASES = {
    "raw_logprobs": {
        "greedy": {"temperature": 0},
        "cuts": {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
        "ids": {"temperature": 0, "logprob_token_ids": [5, 4090, 17]},
        "a prompt": {"temperature": 0, "max_tokens": 1, "prompt_logprobs": 2},
    },
    "processed_logprobs": {
        "a temperature": {"temperature": 0.7},
        "cuts": {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
        "penalties": {"temperature": 0.8, "repetition_penalty": 1.2, "presence_penalty": 0.5, "logit_bias": {17: 5.0}},
    },
    "draws": {
        "a temperature": {"temperature": 0.7, "n": 2},
        "cuts": {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
        "penalties": {"temperature": 0.8, "repetition_penalty": 1.2, "presence_penalty": 0.5, "logit_bias": {17: 5.0}},
        "all kinds": [
            {"temperature": 0},
            {"temperature": 0.6, "top_p": 0.8, "n": 2},
            {"temperature": 1.2, "min_p": 0.1},
        ],
    },
}


def main(model: str, mode: str, folder: str) -> None:
    from vllm import LLM, SamplingParams
    from vllm.v1.sample.ops import topk_topp_sampler

    from isologit.integrations.vllm import _logprobs_v2

    topk_topp_sampler.HAS_TRITON = False  # the interpreter fails at this one kernel; vLLM has the same in torch
    draws = mode == "draws"
    engine = LLM(
        model, enforce_eager=True, max_model_len=256, dtype="bfloat16",
        logprobs_mode="processed_logprobs" if draws else mode, max_num_batched_tokens=32, enable_chunked_prefill=True,
        additional_config={"isologit": {"draws": "contract"} if draws else {}},
    )  # fmt: skip
    worker = engine.llm_engine.model_executor.driver_worker.worker
    steps = record(worker.model_runner)
    runs = {}

    def run(name: str, params: dict | list[dict]) -> None:
        steps.clear()
        prompts = [LONG] if name == "a prompt" else [*PROMPTS, LONG]
        params = params if isinstance(params, list) else [params] * len(prompts)
        params = [SamplingParams(**{"max_tokens": 3, "logprobs": 3, "seed": SEED} | one) for one in params]
        outputs = engine.generate(prompts, params, use_tqdm=False)
        runs[name] = {"steps": list(steps), "outputs": [plain(*pair) for pair in zip(outputs, params, strict=True)]}
        runs[name]["outputs"] = [one for completions in runs[name]["outputs"] for one in completions]

    for name, params in CASES[mode].items():
        run(name, params)
        if len(runs) == 1:  # the others are of a peaked distribution
            worker.get_model().model.norm.weight.data.mul_(8)
    _logprobs_v2.take_back()
    run("vLLM's own", {"temperature": 0.7, "logprobs": 8})
    torch.save(
        {
            "runner": f"{type(worker.model_runner).__module__}.{type(worker.model_runner).__name__}",
            "seed": SEED,
            "state": engine.collective_rpc("isologit_state")[0],
            "weight": worker.get_model().lm_head.weight.data.clone(),
            "runs": runs,
        },
        Path(folder, "recorded"),
    )


def record(runner) -> list[dict]:
    """Of each step that samples: requests, hidden states, logits (scaled, processed); of prompts the former."""
    steps: list[dict] = []
    compute_logits, sample, process = runner.model.compute_logits, runner.sample, runner.sampler.sample
    draw = runner.sampler._sample_random
    sampling = []

    def recorded_logits(hidden):
        logits = compute_logits(hidden)
        kept = {"hidden": hidden.clone(), "logits": logits.clone()}
        steps.append(kept | {"requests": sampling[-1] if sampling else None})
        return logits

    def recorded_sample(hidden, batch, *rest):
        sampling.append(list(batch.req_ids))
        try:
            return sample(hidden, batch, *rest)
        finally:
            sampling.pop()

    def recorded_draws(scaled, *rest):
        steps[-1]["scaled"] = scaled.clone()
        return draw(scaled, *rest)

    def recorded_processing(*args, **kwargs):
        sampled, processed = process(*args, **kwargs)
        steps[-1]["processed"] = processed.clone()
        return sampled, processed

    runner.model.compute_logits, runner.sample, runner.sampler.sample = (
        recorded_logits,
        recorded_sample,
        recorded_processing,
    )
    runner.sampler._sample_random = recorded_draws
    return steps


def plain(output, params) -> list[dict]:
    """Of each completion."""

    def values(logprobs):
        return [None if one is None else {token: logprob.logprob for token, logprob in one.items()} for one in logprobs]

    return [
        {
            "id": output.request_id if len(output.outputs) == 1 else f"{completion.index}_{output.request_id}",
            "index": completion.index,
            "params": {name: getattr(params, name) for name in ("temperature", "min_p", "top_k", "top_p")},
            "prompt": output.prompt_token_ids,
            "tokens": list(completion.token_ids),
            "logprobs": values(completion.logprobs or []),
            "prompt_logprobs": values(output.prompt_logprobs or []),
        }
        for completion in output.outputs
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
