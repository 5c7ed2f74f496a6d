"""Logits, scores and results of given logits of CUDA tensors, where libisologit_cuda.so lies beside the package; what
it does not make, the torch backend does."""

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isologit import _cuda, _inputs
from isologit._score import ScoreArgs

LIBRARY = Path(__file__).resolve().parent.parent / "libisologit_cuda.so"


@functools.cache
def library() -> _cuda.Library | None:
    return _cuda.Library(LIBRARY) if LIBRARY.exists() else None


def makes(hidden: Tensor, weight: Tensor, bias: Tensor | None, **asked: Any) -> bool:
    """Whether the library is there and makes this; `asked` are other arguments of isologit.logits."""
    if library() is None or not all(_is_plain(name, value) for name, value in asked.items()):
        return False
    return not _inputs.wants_gradient(hidden, weight, bias)


def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, vocab_size: int | None) -> Tensor:
    """f32 logits [..., vocab_size] of hidden [..., H]."""
    rows = hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1])
    result = library().logits(rows, weight, bias, vocab_size=vocab_size)
    return result.reshape(*hidden.shape[:-1], result.shape[-1])


_SCORES = frozenset(_cuda.SCORES)


def makes_score(args: ScoreArgs) -> bool:
    """Whether the library is there and makes this."""
    head = args.head
    if library() is None or not head.hidden.is_cuda or head.kernel or args.summaries:
        return False
    if not _SCORES.issuperset(args.outputs):
        return False
    ids = 0 if args.token_ids is None else math.prod(args.token_ids.shape[1:])
    return ids <= _cuda.MOST_IDS and head.hidden.shape[1] <= _cuda.MOST_COLUMNS and head.hidden.shape[0] > 0


def score(args: ScoreArgs) -> dict[str, Tensor]:
    """What is asked for, by name and in the shapes of the operator's results, and the library's "status"."""
    head, support = args.head, args.support
    ids = None if args.token_ids is None else args.token_ids.reshape(head.hidden.shape[0], -1)
    lists = {"kept": (support.kept_offsets, support.kept_ids), "banned": (support.banned_offsets, support.banned_ids)}
    found = library().score(
        head.hidden,
        head.weight,
        ids,
        head.bias,
        vocab_size=head.vocab_size,
        outputs=args.outputs,
        ignore_index=args.ignore_index,
        ignores_rows=args.token_ids is not None and args.token_ids.ndim == 1,
        temperatures=head.temperatures,
        softcap=head.softcap,
        scale=head.scale,
        divide=head.divide,
        scale_first=head.transform_order == "scale_first",
        top_k=args.top_k,
        mask=support.mask,
        **{name: of for name, of in lists.items() if of[0] is not None},
    )
    return found | {name: found[name].reshape(args.token_ids.shape) for name in _cuda.OF_IDS if name in found}


def makes_of_logits(logits: Tensor, token_ids: Tensor | None, kernel: str) -> bool:
    """Whether the library is there and makes this of logits [N, V]."""
    if library() is None or not logits.is_cuda or kernel:
        return False
    return logits.numel() > 0 and (token_ids is None or 0 < token_ids.shape[1] <= _cuda.MOST_IDS)


def _is_plain(name: str, value: Any) -> bool:
    if name == "temperature":
        return not isinstance(value, Tensor) and value == 1.0
    if name == "dtype":
        return value in (None, torch.float32)
    if name == "arithmetic":
        return value == "exact"
    return not isinstance(value, Tensor) and not value  # the others are None, False or "" when they are not given
