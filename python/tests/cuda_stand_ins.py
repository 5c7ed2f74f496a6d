"""What stands in for CUDA tensors and their library, so that no GPU is needed; and what operators are given of them."""

import pytest
import torch

from isologit._inputs import HeadArgs
from isologit._sample import SampleArgs, draws_of
from isologit._score import score_args as score_args_of
from isologit._support import SupportArgs
from isologit._torch import cuda


class Recorder:
    """In the place of the library: keeps what it is given."""

    def logits(self, hidden, weight, bias, *, vocab_size=None, dtype=torch.float32, out=None, arithmetic="exact"):
        self.given, self.out, self.arithmetic = (hidden, weight, bias, vocab_size), out, arithmetic
        return torch.empty(hidden.shape[0], vocab_size or weight.shape[0], device=hidden.device, dtype=dtype)

    def score(self, head, token_ids, *, outputs, **options):
        self.given, self.options = (head, token_ids), options
        rows = head.hidden.shape[:1]
        shapes = {name: token_ids.shape if name in ("logprobs", "rank") else rows for name in outputs}
        top_k = (*rows, options["top_k"])
        shapes |= dict.fromkeys(("top_k_ids", "top_k_logprobs"), top_k) if options["top_k"] else {}
        return {name: torch.empty(shape, device="cuda") for name, shape in shapes.items()}

    def rms_norm(self, *given):
        self.made, self.given = "rms_norm", given

    def residual(self, *given):
        self.made, self.given = "residual", given

    def gate(self, *given):
        self.made, self.given = "gate", given

    def rotary(self, *given):
        self.made, self.given = "rotary", given

    def attention(self, *given):
        self.made, self.given = "attention", given

    def sample(self, head, draws, **support):
        self.given, self.options = (head, draws), support
        return {}

    def of_logits(self, logits, output, token_ids, *, temperatures, ignore_index):
        self.given, self.options = (logits, output, token_ids), (temperatures.shape, ignore_index)
        shapes = {"log_softmax": logits.shape, "logprobs": None if token_ids is None else token_ids.shape}
        return torch.empty(shapes.get(output, logits.shape[:1]), device="cuda"), [0, 0]


@pytest.fixture
def library(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(cuda, "library", lambda: recorder)
    with torch._subclasses.FakeTensorMode():  # has devices that the machine lacks
        yield recorder


def tensors(dtype=torch.bfloat16):
    return torch.empty(2, 3, 8, device="cuda", dtype=dtype), torch.empty(5, 8, device="cuda", dtype=dtype)


def score_args(**options):
    hidden, weight = tensors()
    ids = torch.empty(2, 3, 4, dtype=torch.int64, device="cuda")
    usual = dict.fromkeys(("mask", "kept", "banned", "bias", "softcap", "scale", "divide", "vocab_size", "processors"))
    usual |= {"temperature": 1.0, "transform_order": "softcap_first", "arithmetic": "exact", "threads": 0, "kernel": ""}
    usual |= {"ignore_index": -100, "outputs": ["logprobs", "entropy"], "top_k": 0, "token_ids": ids}
    token_ids = (usual := usual | options).pop("token_ids")
    return score_args_of(hidden, weight, token_ids, **usual)


def score_args_on_cpu(**options):
    """For the lse of two rows."""
    hidden, weight = torch.ones(2, 8).bfloat16(), torch.ones(5, 8).bfloat16()
    usual = dict.fromkeys(("mask", "kept", "banned", "bias", "softcap", "scale", "divide", "vocab_size", "processors"))
    usual |= {"temperature": 1.0, "transform_order": "softcap_first", "arithmetic": "exact", "threads": 0, "kernel": ""}
    return score_args_of(hidden, weight, None, ignore_index=-100, outputs=["lse"], top_k=0, **(usual | options))


def sample_args(hidden, weight, **options):
    usual = {"mask": None, "seed": -1, "sequence_id": 2, "position": 2**32 - 1, "min_p": 0.0, "top_k": 0, "top_p": 1.0}
    usual |= {"temperature": 1.0, "transform_order": "softcap_first", "arithmetic": "exact", "threads": 0, "kernel": ""}
    usual |= dict.fromkeys(("bias", "softcap", "scale", "divide", "vocab_size", "processors")) | options
    mask, *draws = (usual.pop(name) for name in ("mask", "seed", "sequence_id", "position", "min_p", "top_k", "top_p"))
    head = HeadArgs.of(hidden, weight, **usual)
    return SampleArgs(head, SupportArgs.of(hidden, head.vocab_size, mask, None, None), *draws_of(hidden, *draws))
