"""Logits, scores, samples, results of given logits and operators of the forward pass of CUDA tensors, where
libisologit_cuda.so lies beside the package; what it does not make, the torch backend does."""

import functools
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from isologit import _cuda, _inputs, _native
from isologit import _forward_calls as calls
from isologit._inputs import HeadArgs
from isologit._logits import LogitsArgs
from isologit._sample import SampleArgs
from isologit._score import ScoreArgs
from isologit._support import SupportArgs

LIBRARY = _native.CUDA_LIBRARY


@functools.cache
def library() -> _cuda.Library | None:
    return _cuda.Library(LIBRARY) if LIBRARY.exists() else None


def kernel_of(fast: bool) -> str:
    return _native.CUDA_FAST if fast else _native.CUDA


def makes(hidden: Tensor, weight: Tensor, bias: Tensor | None, kernel: str = "", **asked: Any) -> bool:
    """Whether the library is there and makes this; `asked` are other arguments of isologit.logits."""
    if library() is None or not all(_is_plain(name, value) for name, value in asked.items()):
        return False
    fast = asked.get("arithmetic") == "fast"
    if fast and not (_takes_fast(hidden, weight) and asked.get("dtype") in (None, torch.float32)):
        return False
    if kernel not in ("", kernel_of(fast)):
        return False
    return not _inputs.wants_gradient(hidden, weight, bias)


def _takes_fast(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the tensor cores' own sums are of these types."""
    return hidden.dtype == weight.dtype and weight.dtype in (torch.bfloat16, torch.float16)


def logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    vocab_size: int | None,
    dtype: torch.dtype | None,
    arithmetic: str,
) -> Tensor:
    """Logits [..., vocab_size] of hidden [..., H], in f32 where dtype is None."""
    rows = hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1])
    result = library().logits(
        rows, weight, bias, vocab_size=vocab_size, dtype=dtype or torch.float32, arithmetic=arithmetic
    )
    return result.reshape(*hidden.shape[:-1], result.shape[-1])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> bool:
    """Writes x W^T + bias into out [N, features], rounded once to its type, of x [N, cols]; or False where the library
    is not there or does not take this."""
    if library() is None or not x.is_cuda or x.shape[1] > _cuda.MOST_COLUMNS or len(weight) > _cuda.MOST_FEATURES:
        return False
    library().logits(x, weight, bias, out=out)
    return True


# Of the next five: y is new, of x's shape and contiguous, numbers are those of f32. They return False where the library
# is not there, does not take this, or leaves a result open, which it tells of rotary embeddings, attention and those
# gates that may.


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, one_plus_weight: bool, y: Tensor) -> bool:
    if not _makes_rows(x) or not 0 <= epsilon < math.inf:
        return False
    (rows,) = calls.rows_of(x)
    library().rms_norm(rows, weight, epsilon, one_plus_weight, y.view(rows.shape))
    return True


def residual(x: Tensor, a: Tensor, b: Tensor | None, multiplier: float, y: Tensor) -> bool:
    if not _makes_rows(x) or not math.isfinite(multiplier):
        return False
    rows = calls.rows_of(x, a) if b is None else calls.rows_of(x, a, b)
    library().residual(*rows[:2], None if b is None else rows[2], multiplier, y.view(rows[0].shape))
    return True


def gate(g: Tensor, up: Tensor | None, kind: str, alpha: float, limit: float, y: Tensor) -> bool:
    if not _makes_rows(g) or not (0 < alpha < math.inf and limit > 0):
        return False
    rows = calls.rows_of(g) if up is None else calls.rows_of(g, up)
    ups = None if up is None else rows[1]
    return _proven(library().gate(rows[0], ups, calls.GATES.index(kind), alpha, limit, y.view(rows[0].shape)))


def rotary(x: Tensor, positions: Tensor, frequencies: Tensor, layout: str, factor: float, y: Tensor) -> bool:
    if not _makes_rows(x) or not math.isfinite(factor) or not 0 < 2 * len(frequencies) <= x.shape[-1]:
        return False
    heads, places = calls.heads_of(x), positions.to(torch.int64).reshape(-1)
    layout_code = calls.LAYOUTS.index(layout)
    return _proven(library().rotary(heads, places, frequencies, layout_code, factor, y.view(heads.shape)))


def attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lists: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    sinks: Tensor | None,
    numbers: tuple[float, float, bool, int],
    y: Tensor,
) -> bool:
    """Of arguments as Library.attention has them."""
    scale, softcap, _, window = numbers
    if not (0 < scale < math.inf and 0 <= softcap < math.inf and window >= 0):
        return False
    if not _makes_attention(q, keys, values, lists):
        return False
    return _proven(library().attention(q, keys, values, lists, sinks, numbers, y))


_MOST = 2**31 - 1


def _makes_attention(q: Tensor, keys: Tensor, values: Tensor, lists: tuple[Tensor | None, ...]) -> bool:
    """Whether the library is there and takes these shapes."""
    if not _makes_rows(q) or q.dtype == torch.float32 or not q.dtype == keys.dtype == values.dtype:
        return False
    heads, sequences, table = keys.shape[-2], len(lists[1]), lists[3]
    same = keys.shape[:-1] == values.shape[:-1] and keys.shape[-1] == q.shape[-1] and heads > 0
    if not same or q.shape[1] % heads or 0 in (keys.shape[-1], values.shape[-1]):
        return False
    if max(keys.shape[-1], values.shape[-1]) > _cuda.MOST_HEAD or math.prod(keys.shape[:-1]) > _MOST:
        return False
    slots = 0 if table is None else table.shape[1] * keys.shape[1]
    return 0 < sequences <= _MOST // 2 // heads and slots <= _MOST and (table is None or keys.shape[1] > 0)


def _makes_rows(x: Tensor) -> bool:
    """Whether the library is there and takes rows of this shape."""
    if library() is None or not x.is_cuda or x.numel() == 0 or x.shape[-1] > _cuda.MOST_COLUMNS:
        return False
    return x.numel() // x.shape[-1] * -(-x.shape[-1] // _cuda.PIECE) < 2**31


def _proven(status: Tensor | None) -> bool:
    """Waits for the device, where there is something to be told."""
    return status is None or int(status.sum()) == 0


_SCORES = frozenset(_cuda.SCORES)


def _makes_head(head: HeadArgs, token_ids: Tensor | None) -> bool:
    """Whether the library is there and takes this head and these ids."""
    if library() is None or not head.hidden.is_cuda or not isinstance(head.weight, Tensor):  # else on several devices
        return False
    fast = head.arithmetic == "fast"
    if head.kernel not in ("", kernel_of(fast)) or (fast and not _takes_fast(head.hidden, head.weight)):
        return False
    ids = 0 if token_ids is None else math.prod(token_ids.shape[1:])
    return ids <= _cuda.MOST_IDS and head.hidden.shape[1] <= _cuda.MOST_COLUMNS and head.hidden.shape[0] > 0


def makes_logits(args: LogitsArgs) -> bool:
    """Whether the library is there and makes this, after transforms."""
    return args.dtype == torch.float32 and _makes_head(args.head, None)


def transformed(head: HeadArgs, out: Tensor) -> bool:
    """Writes the logits of the head after its transforms into out f32 [N, vocab_size]; whether all are proven."""
    return _proven(library().transformed(_head_of(head), out))


def makes_score(args: ScoreArgs) -> bool:
    """Whether the library is there and makes this."""
    return _makes_head(args.head, args.token_ids) and _SCORES.issuperset(args.outputs)


def score(args: ScoreArgs, summaries: Tensor | None = None) -> dict[str, Tensor]:
    """What is asked for, by name and in the shapes of the operator's results, and the library's "status"; what backward
    wants is left in summaries [N, 5]."""
    ids = None if args.token_ids is None else args.token_ids.reshape(args.head.hidden.shape[0], -1)
    found = library().score(
        _head_of(args.head),
        ids,
        outputs=args.outputs,
        ignore_index=args.ignore_index,
        ignores_rows=args.token_ids is not None and args.token_ids.ndim == 1,
        summaries=summaries,
        top_k=args.top_k,
        **_support_of(args.support),
    )
    return found | {name: found[name].reshape(args.token_ids.shape) for name in _cuda.OF_IDS if name in found}


def makes_sample(args: SampleArgs) -> bool:
    """Whether the library is there and makes this."""
    return _makes_head(args.head, None)


def sample(args: SampleArgs, cuts: Collection[str]) -> dict[str, Tensor]:
    """A token for each row: SAMPLES by name, and the library's "status". cuts: the names of those that cut a row."""
    draws = _cuda.Draws(args.seeds, args.sequence_ids, args.positions, **{name: getattr(args, name) for name in cuts})
    return library().sample(_head_of(args.head), draws, **_support_of(args.support))


def makes_of_logits(logits: Tensor, token_ids: Tensor | None, kernel: str) -> bool:
    """Whether the library is there and makes this of logits [N, V]."""
    if library() is None or not logits.is_cuda or kernel not in ("", _native.CUDA):
        return False
    return logits.numel() > 0 and (token_ids is None or 0 < token_ids.shape[1] <= _cuda.MOST_IDS)


def makes_backward(head: HeadArgs, ids: Tensor) -> bool:
    """Whether the library is there and makes `fast` gradients for ids [N, K] of this head."""
    return head.lora_a is None and _makes_head(head, ids)


def backward(
    head: HeadArgs,
    support: SupportArgs,
    ids: Tensor,
    upstreams: dict[str, Tensor],
    summaries: Tensor | None,
    gradients: dict[str, Tensor],
    accumulate: bool,
) -> bool:
    """Writes the gradients, by name, for upstreams of these names; whether all are proven; else they are of no use."""
    status = library().backward(
        _head_of(head),
        ids if ids.shape[1] else None,
        summaries=summaries,
        ignore_index=-1,  # what contributes nothing has an upstream of 0
        accumulate=accumulate,
        **_support_of(support),
        **upstreams,
        **gradients,
    )
    return _proven(status)


def _head_of(head: HeadArgs) -> _cuda.Head:
    return _cuda.Head(
        head.hidden,
        head.weight,
        head.bias,
        vocab_size=head.vocab_size,
        temperatures=head.temperatures,
        softcap=head.softcap,
        scale=head.scale,
        divide=head.divide,
        scale_first=head.transform_order == "scale_first",
        arithmetic=head.arithmetic,
    )


def _support_of(support: SupportArgs) -> dict[str, Any]:
    lists = {"kept": (support.kept_offsets, support.kept_ids), "banned": (support.banned_offsets, support.banned_ids)}
    return {"mask": support.mask} | {name: of for name, of in lists.items() if of[0] is not None}


def _is_plain(name: str, value: Any) -> bool:
    if name == "temperature":
        return not isinstance(value, Tensor) and value == 1.0
    if name == "dtype":
        return value in (None, torch.float32, torch.bfloat16, torch.float16)
    if name == "arithmetic":
        return value in ("exact", "fast")
    return not isinstance(value, Tensor) and not value  # the others are None, False or "" when they are not given
