"""usage: operands.py

Hostile operands of the Python package: each is refused by an error that names it, or answered as an equal one that is
not hostile. Prints a table, and the cases that ended otherwise.
"""

import collections
import math
import sys
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from torch._subclasses.fake_tensor import FakeTensorMode

import isologit
import isologit._torch  # registers the operators
from isologit._inputs import HeadArgs
from isologit._support import SupportArgs

VOCAB, SIZE, ROWS = 20, 8, 3
generator = torch.Generator().manual_seed(11)
HIDDEN, WEIGHT = (torch.randn(count, SIZE, generator=generator) for count in (ROWS, VOCAB))
IDS = torch.tensor([1, 2, 3])
KEYS = {"seed": 1, "sequence_id": 2, "position": 3}


class Case(NamedTuple):
    kind: str
    name: str
    call: Any  # gives a list of arrays
    error: type | None  # None: answered
    told: Any  # a word of the message, or what gives the answer


class Kind(NamedTuple):
    """Tensors of torch, or arrays of numpy."""

    name: str
    hidden: Any
    weight: Any
    ids: Any

    def logprobs(self, **options):
        return [isologit.linear_logprobs(self.hidden, self.weight, self.ids, **options).logprobs]

    def top_k(self, k):
        return [isologit.linear_logprobs(self.hidden, self.weight, self.ids, top_k=k).top_k_ids]

    def sample(self, **options):
        return list(isologit.sample(self.hidden, self.weight, **{**KEYS, **options})[:-1])

    def loss(self, **options):
        return [isologit.linear_cross_entropy(self.hidden, self.weight, self.ids, **options)]

    def of_logits(self, **options):
        return [isologit.logprobs_of_logits(self.hidden, self.ids, **options)]


KINDS = (Kind("torch", HIDDEN, WEIGHT, IDS), Kind("numpy", HIDDEN.numpy(), WEIGHT.numpy(), IDS.numpy()))


def devices():
    calls = {
        "hidden": lambda move: isologit.linear_logprobs(move(HIDDEN), WEIGHT, IDS),
        "weight": lambda move: isologit.linear_logprobs(HIDDEN, move(WEIGHT), IDS),
        "bias": lambda move: isologit.logits(HIDDEN, WEIGHT, bias=move(torch.ones(VOCAB))),
        "token_ids": lambda move: isologit.score(HIDDEN, WEIGHT, move(IDS)),
        "temperature": lambda move: isologit.score(HIDDEN, WEIGHT, IDS, temperature=move(torch.ones(ROWS))),
        "mask": lambda move: isologit.score(HIDDEN, WEIGHT, IDS, mask=move(torch.ones(VOCAB, dtype=torch.bool))),
        "target": lambda move: isologit.linear_cross_entropy(HIDDEN, WEIGHT, move(IDS)),
        "logits": lambda move: isologit.log_softmax(move(HIDDEN)),
        "token_ids of given logits": lambda move: isologit.logprobs_of_logits(HIDDEN, move(IDS)),
        "temperature of given logits": lambda move: isologit.log_softmax(HIDDEN, temperature=move(torch.ones(ROWS))),
        "seed": lambda move: isologit.sample(HIDDEN, WEIGHT, **{**KEYS, "seed": move(IDS)}),
        "position": lambda move: isologit.sample(HIDDEN, WEIGHT, **{**KEYS, "position": move(IDS)}),
        "min_p": lambda move: isologit.sample(HIDDEN, WEIGHT, **KEYS, min_p=move(torch.ones(ROWS))),
        "dweight_accumulate": lambda move: isologit.linear_logprobs(
            HIDDEN, WEIGHT.clone().requires_grad_(), IDS, dweight_accumulate=move(torch.zeros(VOCAB, SIZE))
        ),
    }

    def elsewhere(tensor):  # the mode has devices that the machine lacks
        with FakeTensorMode():
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")

    for name, call in calls.items():
        word = name.split()[0]
        yield f"{name} on meta", partial(call, lambda x: x.to("meta")), NotImplementedError, f"{word} is on meta"
        if name != "logits":  # which has no second operand
            told = "hidden on cuda" if name == "hidden" else f"{word} is on cuda"
            yield f"{name} on cuda", partial(call, elsewhere), ValueError, told
    raw = torch.ops.isologit.score
    head = HeadArgs(HIDDEN, WEIGHT.to("meta"), None, torch.ones(1), VOCAB)
    yield (
        "operands of an operator on two devices",
        lambda: raw(*head, *SupportArgs(), IDS, -100, ["logprobs"], 0, False, "fast", None),
        ValueError,
        "expected one device",
    )


def layouts():
    """Tensors whose elements do not lie in memory by strides."""
    calls = {
        "hidden": lambda move: isologit.linear_logprobs(move(HIDDEN), WEIGHT, IDS),
        "hidden of logits": lambda move: isologit.logits(move(HIDDEN), WEIGHT),
        "hidden of losses": lambda move: isologit.linear_cross_entropy(move(HIDDEN), WEIGHT, IDS),
        "hidden of samples": lambda move: isologit.sample(move(HIDDEN), WEIGHT, **KEYS),
        "weight": lambda move: isologit.linear_logprobs(HIDDEN, move(WEIGHT), IDS),
        "bias": lambda move: isologit.logits(HIDDEN, WEIGHT, bias=move(torch.ones(VOCAB, 1))),
        "token_ids": lambda move: isologit.score(HIDDEN, WEIGHT, move(IDS[:, None])),
        "mask": lambda move: isologit.score(HIDDEN, WEIGHT, IDS, mask=move(torch.ones(ROWS, VOCAB))),
        "temperature": lambda move: isologit.score(HIDDEN, WEIGHT, IDS, temperature=move(torch.ones(ROWS, 1))),
        "logits": lambda move: isologit.log_softmax(move(HIDDEN)),
        "logits of samples": lambda move: isologit.sample_of_logits(move(HIDDEN), **KEYS),
    }
    ways = {
        "sparse": torch.Tensor.to_sparse,
        "sparse_csr": torch.Tensor.to_sparse_csr,
        "nested": lambda x: torch.nested.nested_tensor([x]),
        "mkldnn": torch.Tensor.to_mkldnn,
    }
    for name, call in calls.items():
        for way, move in ways.items():
            if (name, way) != ("token_ids", "mkldnn"):  # which are of floats
                word = name.split()[0]
                yield f"{name}, {way}", partial(call, move), ValueError, f"{word}: its layout is "


def lists_of_ids():
    wrong = {
        "fractions": [1.5], "texts": ["1"], "booleans": [True], "nothing": [None], "a NaN": [math.nan],
        "2^63": [2**63], "2^64 + 1": [2**64 + 1], "uint64": np.array([2**64 - 1], np.uint64), "tensors": torch.ones(1),
        "a number": 1, "a matrix": [[1, 2]], "an id below 0": [-1], "an id past the end": [VOCAB],
    }  # fmt: skip
    for kind in KINDS:
        for option in ("kept", "banned"):
            for name, ids in wrong.items():
                call = partial(kind.logprobs, **{option: [ids, [1], [2]]})
                yield f"{kind.name}: {option}: {name}", call, ValueError, option
            call = partial(kind.logprobs, **{option: [[1], [2]]})
            yield f"{kind.name}: {option}: a list too few", call, ValueError, option
            for dtype in (np.uint8, np.int16, np.uint64):
                lists = [np.array([3, 1], dtype)] * ROWS
                call = partial(kind.logprobs, **{option: lists})
                wanted = partial(kind.logprobs, **{option: [[1, 3]] * ROWS})
                yield f"{kind.name}: {option}: {np.dtype(dtype)}", call, None, wanted


def integers():
    too_large = {"2^63": 2**63, "2^64 + 2": 2**64 + 2, "-2^63 - 1": -(2**63) - 1}
    no_integers = {"a fraction": 1.5, "a whole float": 2.0, "a text": "2", "a boolean": True, "a NaN": math.nan}
    for kind in KINDS:
        calls = {
            "vocab_size": lambda value, kind=kind: kind.logprobs(vocab_size=value),
            "threads": lambda value, kind=kind: kind.logprobs(threads=value),
            "ignore_index": lambda value, kind=kind: kind.logprobs(ignore_index=value),
            "top_k": lambda value, kind=kind: kind.top_k(value),
            "position": lambda value, kind=kind: kind.sample(position=value),
            "top_k of samples": lambda value, kind=kind: kind.sample(top_k=value),
            "threads of given logits": lambda value, kind=kind: kind.of_logits(threads=value),
            "ignore_index of given logits": lambda value, kind=kind: kind.of_logits(ignore_index=value),
            "ignore_index of losses": lambda value, kind=kind: kind.loss(ignore_index=value),
        }
        for name, call in calls.items():
            wrong = {**too_large, **no_integers}
            if "ignore_index" not in name:
                wrong["-1"] = -1
            if "threads" in name:
                wrong["2^32 + 1"] = 2**32 + 1
            for what, value in wrong.items():
                word = name.split()[0]
                yield f"{kind.name}: {name}: {what}", partial(call, value), ValueError, word
        for name in ("seed", "sequence_id"):
            wrong = {"2^64": 2**64, "-2^63 - 1": -(2**63) - 1, **no_integers}
            for what, value in wrong.items():
                call = partial(kind.sample, **{name: value})
                yield f"{kind.name}: {name}: {what}", call, ValueError, name
            call = partial(kind.sample, **{name: 2**64 - 1})
            wanted = partial(kind.sample, **{name: -1})
            yield f"{kind.name}: {name}: 2^64 - 1", call, None, wanted
    huge = np.array([2**64 - 100, 1, 2], np.uint64)
    for kind, ids in zip(KINDS, (torch.from_numpy(huge), huge), strict=True):
        yield f"{kind.name}: token_ids: uint64", kind._replace(ids=ids).logprobs, ValueError, "token_ids"
        for name in ("position", "top_k"):
            call = partial(kind.sample, **{name: ids})
            yield f"{kind.name}: {name}: uint64", call, ValueError, name


def numbers():
    wrong = {
        "NaN": math.nan, "1e39": 1e39, "infinity": math.inf, "10^400": 10**400, "a text": "2", "a boolean": True,
        "a complex number": 1j,
    }  # fmt: skip
    calls = {
        **{name: lambda kind, name, x: kind.logprobs(**{name: x}) for name in ("softcap", "scale", "divide")},
        "temperature": lambda kind, name, x: kind.logprobs(temperature=x),
        "temperature of samples": lambda kind, name, x: kind.sample(temperature=x),
        "temperature of given logits": lambda kind, name, x: kind.of_logits(temperature=x),
        **{name: lambda kind, name, x: kind.sample(**{name: x}) for name in ("min_p", "top_p")},
        **{name: lambda kind, name, x: kind.loss(**{name: x}) for name in ("label_smoothing", "z_loss")},
    }
    for kind in KINDS:
        for name, call in calls.items():
            values = dict(wrong)
            if name != "scale":
                values["-1"] = -1.0
            if name in ("softcap", "scale", "divide", "temperature", "top_p"):
                values |= {"0": 0.0, "1e-46": 1e-46}
            for what, value in values.items():
                word = name.split()[0]
                arguments = (kind, word, value)
                yield f"{kind.name}: {name}: {what}", partial(call, *arguments), ValueError, word
        for name in ("temperature", "min_p", "top_p"):
            rows = np.array([0.5, math.nan, 0.5], np.float32)
            rows = torch.from_numpy(rows) if kind.name == "torch" else rows
            call = partial(kind.sample, **{name: rows})
            yield f"{kind.name}: {name}: NaN in a row", call, ValueError, f"{name}"
        for name, value in {
            "unknown": "abacus",
            "cut by a NUL": "portable\0x",
            "bytes": b"portable",
            "none": None,
        }.items():
            for what, run in {"scores": kind.logprobs, "samples": kind.sample, "given logits": kind.of_logits}.items():
                call = partial(run, kernel=value)
                yield f"{kind.name}: kernel of {what}: {name}", call, ValueError, "kernel"


def tangents():
    calls = {
        "scores": lambda x: isologit.linear_logprobs(x, WEIGHT, IDS),
        "logits": lambda x: isologit.logits(x, WEIGHT),
        "a loss": lambda x: isologit.linear_cross_entropy(x, WEIGHT, IDS),
        "samples": lambda x: isologit.sample(x, WEIGHT, **KEYS),
        "given logits": lambda x: isologit.log_softmax(x),
        "the weight": lambda x: isologit.logits(HIDDEN, torch.cat([x, x])),
        "a module": lambda x: isologit.nn.LMHead(torch.nn.Parameter(WEIGHT))(x),
    }

    def forward_mode(call):
        with forward_ad.dual_level():
            return call(forward_ad.make_dual(HIDDEN, torch.ones_like(HIDDEN)))

    for name, call in calls.items():
        yield name, lambda call=call: forward_mode(call), NotImplementedError, "tangent"
    jvp = lambda: torch.func.jvp(lambda x: isologit.logits(x, WEIGHT), (HIDDEN,), (HIDDEN,))  # noqa: E731
    yield "torch.func.jvp", jvp, NotImplementedError, "tangent"


def shapes():
    for kind in KINDS:
        one = kind._replace(hidden=kind.hidden[0], ids=kind.ids[0])
        none = kind._replace(hidden=kind.hidden[:0], ids=kind.ids[:0])
        wide = kind._replace(hidden=kind.hidden.reshape(ROWS, 1, SIZE)[:, :0], ids=kind.ids.reshape(ROWS, 1)[:, :0])
        runs = {
            "scores": lambda kind: kind.logprobs(return_lse=True),
            "top-k": lambda kind: kind.top_k(2),
            "samples": lambda kind: kind.sample(temperature=0.5),
            "losses": lambda kind: kind.loss(reduction="none"),
            "given logits": lambda kind: kind.of_logits(),
            "logits": lambda kind: [isologit.logits(kind.hidden, kind.weight)],
        }
        for name, run in runs.items():
            yield (
                f"{kind.name}: {name} of one row without a batch",
                lambda run=run, one=one: run(one),
                None,
                lambda run=run, kind=kind: [found[0] for found in run(kind)],
            )
            for what, empty in (("no row", none), ("rows of none", wide)):
                yield (
                    f"{kind.name}: {name} of {what}",
                    lambda run=run, empty=empty: [found[..., None][:0].reshape(-1) for found in run(empty)],
                    None,
                    lambda run=run, kind=kind: [found.reshape(-1)[:0] for found in run(kind)],
                )


def near_certain(kind):
    hidden, weight, ids = np.ones((1, 1), np.float32), np.array([[95.0], [0.0]], np.float32), np.zeros(1, np.int64)
    if kind.name == "torch":
        hidden, weight, ids = map(torch.from_numpy, (hidden, weight, ids))
    return Kind(kind.name, hidden, weight, ids)


def flushed():
    torch.ones(1 << 20).add_(1)  # makes torch's threads: one that is made while the mode is on keeps it

    def without_subnormals(call):
        torch.set_flush_denormal(True)
        try:
            return call()
        finally:
            torch.set_flush_denormal(False)

    for kind in KINDS:
        calls = {
            "temperature of samples": lambda kind=kind: kind.sample(temperature=1e-40),
            "min_p": lambda kind=kind: kind.sample(min_p=1e-40),
            "a loss of 5.5e-42": lambda kind=kind: near_certain(kind).loss(),
        }
        for name, call in calls.items():
            yield f"{kind.name}: {name}", lambda call=call: without_subnormals(call), None, call


CAMPAIGN = {
    "devices": devices,
    "layouts": layouts,
    "lists of ids": lists_of_ids,
    "integers": integers,
    "numbers and kernels": numbers,
    "forward-mode differentiation": tangents,
    "one row, and none": shapes,
    "subnormals that are flushed": flushed,
}


def cases():
    for kind, make in CAMPAIGN.items():
        for name, call, error, told in make():
            yield Case(kind, name, call, error, told)


def bits(found):
    return [(array.shape, str(array.dtype), array.tobytes()) for array in map(np.asarray, found)]


def problem(case):
    """How a case ended otherwise than it must, or None."""
    try:
        found = case.call()
    except Exception as error:
        if case.error is None:
            return f"{type(error).__name__}: {error}"
        if not isinstance(error, case.error) or case.told not in str(error):
            return f"{type(error).__name__}: {error}; expected {case.error.__name__} and '{case.told}'"
        return None
    if case.error is not None:
        return f"answered {found}; expected {case.error.__name__}"
    return None if bits(found) == bits(case.told()) else f"answered {found}"


def table(all_cases):
    rows = [("hostile", "cases", "answered", "refused")]
    for kind in (*CAMPAIGN, "all"):
        count = collections.Counter(case.error is None for case in all_cases if kind in (case.kind, "all"))
        rows.append((kind, str(count.total()), str(count[True]), str(count[False])))
    return [f"{row[0]:34}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows]


if __name__ == "__main__":
    everything = list(cases())
    print("\n".join(table(everything)))
    wrong = [f"wrong: {case.kind}: {case.name}: {why}" for case in everything if (why := problem(case))]
    print("\n".join(wrong))
    sys.exit(1 if wrong else 0)
