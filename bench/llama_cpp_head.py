"""Tokens a second of llama.cpp on the CPU with its own head and with isologit's, as examples/llama_cpp has it.

A GGUF file with random weights, one layer and the tied BF16 head of Qwen3-0.6B; of one model a context of llama.cpp for
each side. They take turns in short rounds, so that all see the same machine. "states alone" is llama.cpp handing out
hidden states, and nothing after it. Of a prompt llama.cpp makes the logits of every token, and isologit every logprob;
isologit's draws come with logprobs, those of llama.cpp's samplers do not. Beside tokens a second of the clock it prints
those a second of the processors' time. Run it where isologit, gguf 0.19.0 and cyllama 0.2.18 are installed:
python bench/llama_cpp_head.py [--rounds N]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from cyllama.llama.llama_cpp import (
    LlamaBatch,
    LlamaContext,
    LlamaContextParams,
    LlamaModel,
    LlamaModelParams,
    LlamaSampler,
    disable_logging,
)

import isologit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "llama_cpp"))
from gguf_head import read_head
from make_gguf import add_config

VOCAB, HIDDEN, WIDE, HEADS, KV_HEADS, HEAD = 151936, 1024, 3072, 16, 8, 128
CONFIG = {
    "num_hidden_layers": 1, "max_position_embeddings": 4096, "hidden_size": HIDDEN, "intermediate_size": WIDE,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
    "rope_parameters": {"rope_theta": 1e6}, "rms_norm_eps": 1e-6,
}  # fmt: skip
MATRICES = {
    "token_embd": (VOCAB, HIDDEN), "blk.0.attn_q": (HEADS * HEAD, HIDDEN), "blk.0.attn_k": (KV_HEADS * HEAD, HIDDEN),
    "blk.0.attn_v": (KV_HEADS * HEAD, HIDDEN), "blk.0.attn_output": (HIDDEN, HEADS * HEAD),
    "blk.0.ffn_gate": (WIDE, HIDDEN), "blk.0.ffn_up": (WIDE, HIDDEN), "blk.0.ffn_down": (HIDDEN, WIDE),
}  # fmt: skip
NORMS = {
    "output_norm": HIDDEN, "blk.0.attn_norm": HIDDEN, "blk.0.ffn_norm": HIDDEN, "blk.0.attn_q_norm": HEAD,
    "blk.0.attn_k_norm": HEAD,
}  # fmt: skip
PROMPT = 256


def make_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "qwen3")
    add_config(writer, CONFIG)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(VOCAB)
    generator = np.random.default_rng(0)
    for name, shape in MATRICES.items():
        values = generator.standard_normal(shape, np.float32) * np.float32(0.02)
        upper = np.ascontiguousarray(values.view(np.uint16)[:, 1::2])  # of little-endian f32 the bits of a bf16
        writer.add_tensor(f"{name}.weight", upper.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    for name, size in NORMS.items():
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Body:
    """A context of up to 16 sequences, which gives the logits or the hidden states of every token."""

    def __init__(self, model: LlamaModel, gives_states: bool) -> None:
        params = LlamaContextParams()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 2048, 512, 512, 16
        params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
        params.pooling_type = 0  # none
        self.context = LlamaContext(model, params)
        self.context.set_embeddings_mode(gives_states)

    def decode(self, tokens: list[tuple[int, int, int]]) -> None:
        """tokens: (id, position, sequence)."""
        batch = LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
        for token, position, sequence in tokens:
            batch.add(token, position, [sequence], True)
        self.context.decode(batch)

    def states(self, count: int) -> np.ndarray:
        return np.array([self.context.get_embeddings_ith(i) for i in range(count)], np.float32)


def decoding(body: Body, batch: int, tokens: int, take: Callable[[list[int], int], list[int]]) -> Callable[[], None]:
    """`tokens` steps of `batch` sequences; take(ids of the step before, position) tells the ids of the next."""

    def run() -> None:
        body.context.kv_cache_clear()
        ids = [100 + i for i in range(batch)]
        for position in range(tokens):
            body.decode([(token, position, i) for i, token in enumerate(ids)])
            ids = take(ids, position)

    return run


def sides(model: LlamaModel, path: Path, tokens: int) -> dict[str, dict[str, tuple[int, Callable[[], None]]]]:
    """Of each kind of work: of each side, how many tokens it makes, and the call that makes them."""
    own, states = Body(model, False), Body(model, True)
    head = read_head(path).arguments()
    samplers = {0.0: LlamaSampler(), 1.0: LlamaSampler()}
    samplers[0.0].add_greedy()
    samplers[1.0].add_dist(0)
    work: dict[str, dict[str, tuple[int, Callable[[], None]]]] = {}
    for batch in (1, 16):
        for name, temperature in (("greedy", 0.0), ("drawn", 1.0)):

            def sampled(ids: list[int], position: int, sampler: LlamaSampler = samplers[temperature]) -> list[int]:
                return [sampler.sample(own.context, i) for i in range(len(ids))]

            def drawn(ids: list[int], position: int, temperature: float = temperature) -> list[int]:
                drawn = isologit.sample(
                    states.states(len(ids)), sequence_id=np.arange(len(ids)), position=position + 1, seed=0,
                    temperature=temperature, **head,
                )  # fmt: skip
                return drawn.ids.tolist()

            def unchanged(ids: list[int], position: int) -> list[int]:
                states.states(len(ids))
                return ids

            calls = {"llama.cpp": (own, sampled), "isologit": (states, drawn), "states alone": (states, unchanged)}
            work[f"{name}, batch {batch}"] = {
                side: (batch * tokens, decoding(body, batch, tokens, take)) for side, (body, take) in calls.items()
            }
    ids = np.arange(100, 100 + PROMPT + 1)
    given = [(int(token), position, 0) for position, token in enumerate(ids[:-1])]

    def prompt(body: Body, then: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            body.context.kv_cache_clear()
            body.decode(given)
            then()

        return run

    def scored() -> object:
        return isologit.linear_logprobs(states.states(PROMPT), token_ids=ids[1:], **head)

    work[f"prompt of {PROMPT}"] = {
        "llama.cpp": (PROMPT, prompt(own, lambda: None)),
        "isologit": (PROMPT, prompt(states, scored)),
        "states alone": (PROMPT, prompt(states, lambda: states.states(PROMPT))),
    }
    return work


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    args = parser.parse_args()
    disable_logging()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.gguf"
        make_gguf(path)
        model = LlamaModel(str(path), LlamaModelParams())
        for name, calls in sides(model, path, args.tokens).items():
            rates: dict[str, list[tuple[float, float]]] = {side: [] for side in calls}
            for round_number in range(args.rounds + 1):
                for side, (tokens, call) in calls.items():
                    clock, processors = time.perf_counter(), time.process_time()
                    call()
                    spent = time.perf_counter() - clock, time.process_time() - processors
                    if round_number > 0:  # the first warms up
                        rates[side].append(tuple(tokens / seconds for seconds in spent))
            for side in calls:
                clock, processors = map(statistics.median, zip(*rates[side], strict=True))
                print(f"{name:17} {side:13} {clock:8.1f} tokens/s {processors:8.1f} per processor", flush=True)


if __name__ == "__main__":
    main()
