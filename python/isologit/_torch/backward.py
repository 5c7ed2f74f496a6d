"""The operators that make gradients: of isologit::score and isologit::logits, over isologit_backward.

Each exists twice: one that returns the gradient of the weight, and one, `..._into`, that adds it to a buffer. The
kernel is the one that forward reported, whatever ISOLOGIT_KERNEL says by now.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from isologit import _inputs, _native
from isologit._inputs import HeadArgs
from isologit._support import SupportArgs
from isologit._torch import fingerprint
from isologit._torch.schema import HEAD, SUPPORT, operator

DIFFERENTIABLE = ("logprobs", "entropy", "lse", "mean_logits", "top_k_logprobs")  # in the order of Upstream


class Upstream(NamedTuple):
    """Of what isologit::score was given and returned; token_ids [N] or [N, K], top_k_* [N, k] or [0], counts [8]."""

    token_ids: Tensor | None
    top_k_ids: Tensor
    top_k_logprobs: Tensor
    summaries: Tensor
    counts: Tensor
    ignore_index: int
    d_logprobs: Tensor | None
    d_entropy: Tensor | None
    d_lse: Tensor | None
    d_mean_logits: Tensor | None
    d_top_k: Tensor | None


class LogitsUpstream(NamedTuple):
    counts: Tensor
    d_logits: Tensor


class Wanted(NamedTuple):
    """dweight: whether, or the buffer to add it to."""

    gradients: str
    dhidden: bool
    dweight: bool | Tensor
    dbias: bool
    dlora_a: bool = False
    dlora_b: bool = False


def split(flat: tuple[Any, ...], *kinds: Any) -> tuple[Any, ...]:
    parts = iter(flat)
    return tuple(kind(*(next(parts) for _ in kind._fields)) for kind in kinds)


def outputs(head: HeadArgs, wanted: Wanted) -> tuple[Tensor, ...]:
    """dhidden, dweight, dbias, dlora_a and dlora_b in the types of what they are gradients of, f32 for f64; empty
    where not wanted. dweight is left out when there is a buffer for it."""

    def like(tensor: Tensor | None, wants: bool) -> Tensor:
        if tensor is None or not wants:
            return head.hidden.new_empty(0)
        dtype = torch.float32 if tensor.dtype == torch.float64 else tensor.dtype
        return tensor.new_empty(tuple(tensor.shape), dtype=dtype)

    dhidden, dbias = like(head.hidden, wanted.dhidden), like(head.bias, wanted.dbias)
    factors = like(head.lora_a, wanted.dlora_a), like(head.lora_b, wanted.dlora_b)
    if isinstance(wanted.dweight, Tensor):
        return dhidden, dbias, *factors
    return dhidden, like(head.weight, wanted.dweight), dbias, *factors


def _gradient(tensor: Tensor, name: str, accumulate: bool = False) -> _native.Gradient:
    row_stride = tensor.stride(0) if tensor.dim() > 1 else 0
    return _native.Gradient(tensor.data_ptr(), row_stride, _inputs.dtype_code(tensor, name), accumulate)


def _run(
    head: HeadArgs,
    wanted: Wanted,
    counts: Tensor,
    request: _native.BackwardRequest,
    peers: _native.PeersCalls | None = None,
) -> tuple[Tensor, ...]:
    """Makes the gradients that are wanted, for the upstream that the request holds."""
    native, results = head.native(), outputs(head, wanted)
    accumulate = isinstance(wanted.dweight, Tensor)
    dhidden, *_, dbias, dlora_a, dlora_b = results
    dweight = wanted.dweight if accumulate else results[1]
    if head.hidden.shape[0] == 0:
        for tensor in results:
            tensor.zero_()
        return results
    head.set_rows(request)
    if wanted.dhidden:
        request.dhidden = _gradient(dhidden, "dhidden")
    if accumulate or wanted.dweight:
        request.dweight = _gradient(dweight, "dweight_accumulate" if accumulate else "dweight", accumulate)
    if wanted.dbias:
        request.dbias = _gradient(dbias, "dbias")
    if wanted.dlora_a:
        request.dlora_a = _gradient(dlora_a, "dlora_a")
    if wanted.dlora_b:
        request.dlora_b = _gradient(dlora_b, "dlora_b")
    options = head._replace(kernel=_native.Report.of(counts).kernel).options(peers)
    try:
        _native.backward(native, request, gradients=wanted.gradients, **options)
    except BaseException as error:
        if accumulate and _had_begun(error):
            mark(dweight, error)
        raise
    for tensor in (dbias, dlora_b) if accumulate else (dweight, dbias, dlora_b):
        tensor[head.vocab_size :].zero_()  # rows of padding
    return results


def _had_begun(error: BaseException) -> bool:
    """Whether outputs were written to: the library refuses arguments before that, and says so where it fails later."""
    return not isinstance(error, (ValueError, NotImplementedError)) or "of no use" in str(error)


def mark(buffer: Tensor, error: BaseException) -> None:
    """A part of this gradient has been added to the buffer: what is left there must not be taken for a sum."""
    buffer.fill_(torch.nan)
    told = "dweight_accumulate held a part of this gradient and is NaN now: fill it anew before it is used again"
    if isinstance(error, ValueError):
        error.args = (f"{error}; {told}",)
    elif hasattr(error, "add_note"):  # Python 3.11
        error.add_note(told)


def _flat_f32(upstream: Tensor) -> Tensor:
    return upstream.to(torch.float32).contiguous()


def rows_that_count(upstream: Upstream, hidden: Tensor) -> Tensor:
    """[N], those that are not ignored."""
    if upstream.token_ids is not None and upstream.token_ids.dim() == 1:
        return upstream.token_ids != upstream.ignore_index
    return hidden.new_ones(hidden.shape[0], dtype=torch.bool)


def ids_and_upstream(upstream: Upstream, counts: Tensor) -> tuple[Tensor, Tensor]:
    """All ids [N, n] that have an upstream, token_ids and top-k ones, and these upstreams.

    `counts` [N] are the rows_that_count. What contributes nothing has an upstream of 0 rather than an id to
    ignore, since ignore_index may be an id of the vocabulary, and top-k ids may hold it.
    """
    ids, values = [], []
    rows = counts.shape[0]
    if upstream.d_logprobs is not None and upstream.d_logprobs.numel() > 0:
        given = upstream.token_ids.reshape(rows, -1)
        ignored = given == upstream.ignore_index
        ids.append(given.masked_fill(ignored, 0))
        values.append(upstream.d_logprobs.reshape(rows, -1).masked_fill(ignored, 0))
    if upstream.d_top_k is not None and upstream.d_top_k.numel() > 0:
        # Past the end of the support the id is -1 and the logprob a constant, unless the whole row is NaN.
        past = (upstream.top_k_ids < 0) & ~upstream.top_k_logprobs.isnan()
        ids.append(upstream.top_k_ids.clamp(min=0))
        values.append(upstream.d_top_k.masked_fill(past | ~counts[:, None], 0))
    if not ids:
        return counts.new_empty(rows, 0, dtype=torch.int64), counts.new_empty(rows, 0, dtype=torch.float32)
    return torch.cat(ids, 1).contiguous(), _flat_f32(torch.cat(values, 1))


def run_score(*flat: Any, peers: _native.PeersCalls | None = None) -> tuple[Tensor, ...]:
    head, support, upstream, wanted = split(flat, HeadArgs, SupportArgs, Upstream, Wanted)
    rows = head.hidden.shape[0]
    if rows == 0:
        return _run(head, wanted, upstream.counts, _native.BackwardRequest())
    if upstream.summaries.numel() > 0:
        fingerprint.check(upstream.summaries[-1], head, support, upstream.token_ids)
    counts = rows_that_count(upstream, head.hidden)
    ids, d_logprobs = ids_and_upstream(upstream, counts)
    request = _native.BackwardRequest(ids_per_row=ids.shape[1], has_ignore_index=1, ignore_index=-1)
    if ids.shape[1] > 0:
        request.token_ids, request.d_logprobs = ids.data_ptr(), d_logprobs.data_ptr()
    d_rows = {}  # these must outlive the call, and so must what follows
    for name in ("d_entropy", "d_lse", "d_mean_logits"):
        values = getattr(upstream, name)
        if values is not None and values.numel() == rows:
            d_rows[name] = _flat_f32(values.masked_fill(~counts, 0))
            setattr(request, name, d_rows[name].data_ptr())
    if upstream.summaries.numel() > 0:
        request.summaries = upstream.summaries.data_ptr()
    keep_alive = support.set_support(request)
    results = _run(head, wanted, upstream.counts, request, peers)
    del keep_alive
    return results


def run_logits(*flat: Any) -> tuple[Tensor, ...]:
    head, upstream, wanted = split(flat, HeadArgs, LogitsUpstream, Wanted)
    d_logits = upstream.d_logits.to(torch.float32)
    if not _inputs.rows_are_adjacent(d_logits):
        d_logits = d_logits.contiguous()
    request = _native.BackwardRequest(d_logits=d_logits.data_ptr(), d_logits_row_stride=d_logits.stride(0))
    return _run(head, wanted, upstream.counts, request)


def _fake(*flat: Any) -> tuple[Tensor, ...]:
    return outputs(HeadArgs(*flat[: len(HeadArgs._fields)]), Wanted(*flat[-len(Wanted._fields) :]))


def _operators(name: str, upstream: str, run: Any) -> tuple[Any, Any]:
    """The operator that returns what `outputs` says, and the one that adds dweight to a buffer."""
    wanted = "str gradients, bool dhidden, {} dweight, bool dbias, bool dlora_a, bool dlora_b"
    results = "(Tensor, Tensor, Tensor, Tensor{})"
    returns = f"({HEAD}, {upstream}, {wanted.format('bool')}) -> {results.format(', Tensor')}"
    adds = f"({HEAD}, {upstream}, {wanted.format('Tensor(a!)')}) -> {results.format('')}"
    return operator(name, returns, run, _fake), operator(f"{name}_into", adds, run, _fake, ("dweight",))


score_backward, score_backward_into = _operators(
    "score_backward",
    f"{SUPPORT}, Tensor? token_ids, Tensor top_k_ids, Tensor top_k_logprobs, Tensor summaries, Tensor counts, "
    "SymInt ignore_index, Tensor? d_logprobs, Tensor? d_entropy, Tensor? d_lse, Tensor? d_mean_logits, "
    "Tensor? d_top_k",
    run_score,
)
logits_backward, logits_backward_into = _operators("logits_backward", "Tensor counts, Tensor d_logits", run_logits)
