"""Tokens a second of SGLang on the CPU with its own head, with isologit's and with --enable-fp32-lm-head.

An engine of each, with random weights, one layer and the head of Qwen3-0.6B, in processes of their own; they take turns
in short rounds, so that all see the same machine, and sleep meanwhile. Beside tokens a second of the clock it prints
those a second of the processors' time, which other work on the machine disturbs less. SGLang's kernels for CPUs are on
no package index: attention, norms and its own head's product are torch's, and what is for GPUs has stand-ins. Run it
where scripts/test_engines has installed isologit and the engines:
PYTHONPATH=python/tests_sglang/stand_ins build/engines/venv/bin/python bench/sglang_tokens.py [--rounds N]
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

from vllm_tokens import CONFIG

HEADS = {"stock": {}, "isologit": {}, "float32": {"enable_fp32_lm_head": True}}


def serve(pipe: Connection, head: str, folder: str, port: int) -> None:
    """In a process of its own: an engine that answers (batch, tokens, logprobs) with the seconds of the clock and of
    the processors that it took."""
    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    if head == "isologit":
        os.environ["SGLANG_PLUGINS"] = "isologit"
    import psutil
    import sglang

    engine = sglang.Engine(
        model_path=folder, load_format="dummy", skip_tokenizer_init=True, device="cpu", log_level="error", port=port,
        attention_backend="torch_native", sampling_backend="pytorch", grammar_backend="none", max_total_tokens=4096,
        disable_overlap_schedule=True, disable_radix_cache=True, sleep_on_idle=True, **HEADS[head],
    )  # fmt: skip

    def processors() -> float:
        times = [one.cpu_times() for one in psutil.Process().children(recursive=True)]
        return sum(one.user + one.system for one in times)

    pipe.send("ready")
    for batch, tokens, logprobs in iter(pipe.recv, None):
        prompts = [[100 + i, 200, 300] for i in range(batch)]
        params = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
        clock, spent = time.perf_counter(), processors()
        engine.generate(input_ids=prompts, sampling_params=params, return_logprob=logprobs)
        pipe.send((time.perf_counter() - clock, processors() - spent))
    engine.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        for i, head in enumerate(HEADS):
            pipes[head], theirs = context.Pipe()
            context.Process(target=serve, args=(theirs, head, folder, 31000 + 100 * i)).start()
            theirs.close()
            pipes[head].recv()

    for batch in args.batches:
        for logprobs in (False, True):
            rates: dict[str, list[tuple[float, float]]] = {head: [] for head in HEADS}
            for round_number in range(args.rounds + 1):
                for head, pipe in pipes.items():
                    pipe.send((batch, args.tokens, logprobs))
                    spent = pipe.recv()
                    if round_number > 0:  # the first warms up
                        rates[head].append(tuple(batch * args.tokens / seconds for seconds in spent))
            for head in HEADS:
                clock, processors = map(statistics.median, zip(*rates[head], strict=True))
                name = f"{head}, logprobs" if logprobs else head
                print(f"batch {batch:3}  {name:19} {clock:8.1f} tokens/s {processors:8.1f} per processor", flush=True)
    for pipe in pipes.values():
        pipe.send(None)


if __name__ == "__main__":
    main()
