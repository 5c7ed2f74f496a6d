"""The operators that make gradients: of isologit::score and isologit::logits, over isologit_backward.

Each exists twice: one that returns the gradient of the weight, and one, `..._into`, that adds it to a buffer.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from isologit import _native
from isologit._torch_args import HEAD, SUPPORT, HeadArgs, SupportArgs, gradient, rows_are_adjacent

_HEAD_SIZE = len(HeadArgs._fields)


class _Upstream(NamedTuple):
    """Of what isologit::score returned: token_ids [N] or [N, K], top_k_* [N, k], or [0] without; summaries [N, 5]."""

    token_ids: Tensor
    ignore_index: int
    top_k_ids: Tensor
    top_k_logprobs: Tensor
    summaries: Tensor
    d_logprobs: Tensor | None
    d_entropy: Tensor | None
    d_lse: Tensor | None
    d_top_k: Tensor | None


class _Wanted(NamedTuple):
    """dweight: whether, or the buffer to add it to."""

    gradients: str
    dhidden: bool
    dweight: bool | Tensor
    dbias: bool


_UPSTREAM = (
    "Tensor token_ids, SymInt ignore_index, Tensor top_k_ids, Tensor top_k_logprobs, Tensor summaries, "
    "Tensor? d_logprobs, Tensor? d_entropy, Tensor? d_lse, Tensor? d_top_k"
)
_WANTED = "str gradients, bool dhidden, bool dweight, bool dbias"
_WANTED_INTO = "str gradients, bool dhidden, Tensor(a!) dweight, bool dbias"


def _outputs(head: HeadArgs, wanted: _Wanted) -> tuple[Tensor, ...]:
    """dhidden, dweight and dbias in the types of what they are gradients of; empty where not wanted. dweight is left
    out when there is a buffer for it."""

    def like(tensor: Tensor | None, shape: tuple[int, ...], wants: bool) -> Tensor:
        if tensor is None or not wants:
            return head.hidden.new_empty(0)
        return tensor.new_empty(shape)

    dhidden = like(head.hidden, tuple(head.hidden.shape), wanted.dhidden)
    dbias = like(head.bias, () if head.bias is None else tuple(head.bias.shape), wanted.dbias)
    if isinstance(wanted.dweight, Tensor):
        return dhidden, dbias
    return dhidden, like(head.weight, tuple(head.weight.shape), wanted.dweight), dbias


def _run(head: HeadArgs, wanted: _Wanted, request: _native.BackwardRequest) -> tuple[Tensor, ...]:
    """Makes the gradients that are wanted, for the upstream that the request holds."""
    native = head.native()
    results = _outputs(head, wanted)
    accumulate = isinstance(wanted.dweight, Tensor)
    dhidden, dbias = results[0], results[-1]
    dweight = wanted.dweight if accumulate else results[1]
    if head.hidden.shape[0] == 0:
        for tensor in results:
            tensor.zero_()
        return results
    head.set_rows(request)
    if wanted.dhidden:
        request.dhidden = gradient(dhidden, "dhidden")
    if accumulate or wanted.dweight:
        request.dweight = gradient(dweight, "dweight_accumulate" if accumulate else "dweight", accumulate)
    if wanted.dbias:
        request.dbias = gradient(dbias, "dbias")
    _native.backward(native, request, gradients=wanted.gradients, **head.how())
    for tensor in (dbias,) if accumulate else (dweight, dbias):
        tensor[head.vocab_size :].zero_()  # rows of padding
    return results


def _flat_f32(upstream: Tensor) -> Tensor:
    return upstream.to(torch.float32).contiguous()


def _ids_and_upstream(upstream: _Upstream, counts: Tensor) -> tuple[Tensor, Tensor]:
    """All ids [N, n] that have an upstream, token_ids and top-k ones, and these upstreams.

    `counts` [N] tells the rows that are not ignored. What contributes nothing has an upstream of 0 rather than an id to
    ignore, since ignore_index may be an id of the vocabulary, and top-k ids may hold it.
    """
    ids, values = [], []
    rows = counts.shape[0]
    if upstream.d_logprobs is not None:
        given = upstream.token_ids.reshape(rows, -1)
        ignored = given == upstream.ignore_index
        ids.append(given.masked_fill(ignored, 0))
        values.append(upstream.d_logprobs.reshape(rows, -1).masked_fill(ignored, 0))
    if upstream.d_top_k is not None:
        # Past the end of the support the id is -1 and the logprob a constant, unless the whole row is NaN.
        past = (upstream.top_k_ids < 0) & ~upstream.top_k_logprobs.isnan()
        ids.append(upstream.top_k_ids.clamp(min=0))
        values.append(upstream.d_top_k.masked_fill(past | ~counts[:, None], 0))
    if not ids:
        return upstream.token_ids.new_empty(rows, 0), torch.empty(rows, 0)
    return torch.cat(ids, 1).contiguous(), _flat_f32(torch.cat(values, 1))


def _score_backward(flat: tuple[Any, ...]) -> tuple[Tensor, ...]:
    head, support, upstream, wanted = _score_args(flat)
    rows = head.hidden.shape[0]
    if rows == 0:
        return _run(head, wanted, _native.BackwardRequest())
    counts = torch.ones(rows, dtype=torch.bool)
    if upstream.token_ids.dim() == 1:
        counts = upstream.token_ids != upstream.ignore_index
    ids, d_logprobs = _ids_and_upstream(upstream, counts)
    request = _native.BackwardRequest(ids_per_row=ids.shape[1], has_ignore_index=1, ignore_index=-1)
    if ids.shape[1] > 0:
        request.token_ids, request.d_logprobs = ids.data_ptr(), d_logprobs.data_ptr()
    d_rows = {}  # these must outlive the call, and so must what follows
    for name, values in (("d_entropy", upstream.d_entropy), ("d_lse", upstream.d_lse)):
        if values is not None and values.numel() == rows:
            d_rows[name] = _flat_f32(values.masked_fill(~counts, 0))
            setattr(request, name, d_rows[name].data_ptr())
    request.summaries = upstream.summaries.data_ptr()
    keep_alive = support.set_lists(request, rows)
    results = _run(head, wanted, request)
    del keep_alive
    return results


def _score_args(flat: tuple[Any, ...]) -> tuple[HeadArgs, SupportArgs, _Upstream, _Wanted]:
    parts = iter(flat)
    return tuple(kind(*(next(parts) for _ in kind._fields)) for kind in (HeadArgs, SupportArgs, _Upstream, _Wanted))


def _logits_args(flat: tuple[Any, ...]) -> tuple[HeadArgs, Tensor, _Wanted]:
    return HeadArgs(*flat[:_HEAD_SIZE]), flat[_HEAD_SIZE], _Wanted(*flat[_HEAD_SIZE + 1 :])


def _logits_backward(flat: tuple[Any, ...]) -> tuple[Tensor, ...]:
    head, d_logits, wanted = _logits_args(flat)
    d_logits = d_logits.to(torch.float32)
    if not rows_are_adjacent(d_logits):
        d_logits = d_logits.contiguous()
    request = _native.BackwardRequest(d_logits=d_logits.data_ptr(), d_logits_row_stride=d_logits.stride(0))
    return _run(head, wanted, request)


@torch.library.custom_op(
    "isologit::score_backward",
    mutates_args=(),
    schema=f"({HEAD}, {SUPPORT}, {_UPSTREAM}, {_WANTED}) -> (Tensor, Tensor, Tensor)",
)
def score_backward(*flat: Any) -> tuple[Tensor, ...]:
    """dhidden, dweight, dbias."""
    return _score_backward(flat)


@torch.library.custom_op(
    "isologit::score_backward_into",
    mutates_args=("dweight",),
    schema=f"({HEAD}, {SUPPORT}, {_UPSTREAM}, {_WANTED_INTO}) -> (Tensor, Tensor)",
)
def score_backward_into(*flat: Any) -> tuple[Tensor, ...]:
    """dhidden, dbias."""
    return _score_backward(flat)


@torch.library.custom_op(
    "isologit::logits_backward",
    mutates_args=(),
    schema=f"({HEAD}, Tensor d_logits, {_WANTED}) -> (Tensor, Tensor, Tensor)",
)
def logits_backward(*flat: Any) -> tuple[Tensor, ...]:
    """dhidden, dweight, dbias."""
    return _logits_backward(flat)


@torch.library.custom_op(
    "isologit::logits_backward_into",
    mutates_args=("dweight",),
    schema=f"({HEAD}, Tensor d_logits, {_WANTED_INTO}) -> (Tensor, Tensor)",
)
def logits_backward_into(*flat: Any) -> tuple[Tensor, ...]:
    """dhidden, dbias."""
    return _logits_backward(flat)


def _fake_score_backward(*flat: Any) -> tuple[Tensor, ...]:
    head, _, _, wanted = _score_args(flat)
    return _outputs(head, wanted)


def _fake_logits_backward(*flat: Any) -> tuple[Tensor, ...]:
    head, _, wanted = _logits_args(flat)
    return _outputs(head, wanted)


score_backward.register_fake(_fake_score_backward)
score_backward_into.register_fake(_fake_score_backward)
logits_backward.register_fake(_fake_logits_backward)
logits_backward_into.register_fake(_fake_logits_backward)
