"""The operators of torch isologit::score and isologit::logits, over the C interface, and their autograd formulas.

`gradients` is the arithmetic of the gradients, and `dweight_accumulate` a buffer that the gradient of the weight is
added to in the place of being returned. Forward only passes them on.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from isologit import _native, _torch_backward
from isologit._torch_args import HEAD, SUPPORT, HeadArgs, SupportArgs, dtype_code

_HEAD_SIZE = len(HeadArgs._fields)
_SUPPORT_SIZE = len(SupportArgs._fields)


class _ScoreArgs(NamedTuple):
    """token_ids [N] or [N, K]."""

    head: HeadArgs
    support: SupportArgs
    token_ids: Tensor
    ignore_index: int
    entropy: bool
    lse: bool
    top_k: int
    gradients: str
    dweight_accumulate: Tensor | None

    @classmethod
    def of(cls, args: tuple[Any, ...]) -> "_ScoreArgs":
        support = args[_HEAD_SIZE : _HEAD_SIZE + _SUPPORT_SIZE]
        return cls(HeadArgs(*args[:_HEAD_SIZE]), SupportArgs(*support), *args[_HEAD_SIZE + _SUPPORT_SIZE :])


class _LogitsArgs(NamedTuple):
    head: HeadArgs
    dtype: torch.dtype
    gradients: str
    dweight_accumulate: Tensor | None

    @classmethod
    def of(cls, args: tuple[Any, ...]) -> "_LogitsArgs":
        return cls(HeadArgs(*args[:_HEAD_SIZE]), *args[_HEAD_SIZE:])


def _outputs(hidden: Tensor, token_ids: Tensor, entropy: bool, lse: bool, top_k: int) -> tuple[Tensor, ...]:
    rows = hidden.shape[0]
    top_k_shape = (rows, top_k) if top_k > 0 else (0,)
    return (
        hidden.new_zeros(token_ids.shape, dtype=torch.float32),
        hidden.new_zeros(rows if entropy else 0, dtype=torch.float32),
        hidden.new_zeros(rows if lse else 0, dtype=torch.float32),
        hidden.new_zeros(top_k_shape, dtype=torch.int64),
        hidden.new_zeros(top_k_shape, dtype=torch.float32),
        hidden.new_zeros((rows, _native.SUMMARY_DOUBLES), dtype=torch.float64),
    )


@torch.library.custom_op(
    "isologit::score",
    mutates_args=(),
    schema=f"({HEAD}, {SUPPORT}, Tensor token_ids, SymInt ignore_index, bool entropy, bool lse, SymInt top_k, "
    "str gradients, Tensor? dweight_accumulate) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def score(*flat: Any) -> tuple[Tensor, ...]:
    """logprobs, entropy, lse, top_k_ids, top_k_logprobs, empty where not asked for; and summaries for backward."""
    args = _ScoreArgs.of(flat)
    _native.arithmetic_code(args.gradients, "gradients")  # rather now than in backward
    head = args.head.native()
    rows = args.head.hidden.shape[0]
    request = _native.ScoreRequest(has_ignore_index=1, ignore_index=args.ignore_index)
    args.head.set_rows(request)
    keep_alive = args.support.set_lists(request, rows)
    results = _outputs(args.head.hidden, args.token_ids, args.entropy, args.lse, args.top_k)
    if args.token_ids.dim() == 1:
        request.token_ids, request.logprobs = args.token_ids.data_ptr(), results[0].data_ptr()
    else:
        request.ids_per_row = args.token_ids.shape[1]
        request.ids, request.ids_logprobs = args.token_ids.data_ptr(), results[0].data_ptr()
    if args.entropy:
        request.entropy = results[1].data_ptr()
    if args.lse:
        request.lse = results[2].data_ptr()
    if args.top_k:
        request.top_k = args.top_k
        request.top_k_ids, request.top_k_logprobs = results[3].data_ptr(), results[4].data_ptr()
    request.summaries = results[5].data_ptr()
    if rows > 0:
        _native.score(head, request, **args.head.how())
    del keep_alive
    return results


@score.register_fake
def _(*flat: Any) -> tuple[Tensor, ...]:
    args = _ScoreArgs.of(flat)
    return _outputs(args.head.hidden, args.token_ids, args.entropy, args.lse, args.top_k)


@torch.library.custom_op(
    "isologit::logits",
    mutates_args=(),
    schema=f"({HEAD}, ScalarType dtype, str gradients, Tensor? dweight_accumulate) -> Tensor",
)
def logits(*flat: Any) -> Tensor:
    """[N, vocab_size] in dtype, of hidden [N, H]."""
    args = _LogitsArgs.of(flat)
    _native.arithmetic_code(args.gradients, "gradients")  # rather now than in backward
    head = args.head.native()
    rows, vocab_size = args.head.hidden.shape[0], args.head.vocab_size
    result = args.head.hidden.new_empty((rows, vocab_size), dtype=args.dtype)
    request = _native.ScoreRequest(
        logits=result.data_ptr(),
        logits_dtype=dtype_code(result, "logits"),
        logits_row_stride=vocab_size,
        logits_count=vocab_size,
    )
    args.head.set_rows(request)
    if rows > 0:
        _native.score(head, request, **args.head.how())
    return result


@logits.register_fake
def _(*flat: Any) -> Tensor:
    args = _LogitsArgs.of(flat)
    return args.head.hidden.new_empty((args.head.hidden.shape[0], args.head.vocab_size), dtype=args.dtype)


# Gradients. Which of them are wanted is decided when backward runs.


def _save_head(ctx: Any, args: _ScoreArgs | _LogitsArgs, *more: Tensor | None) -> None:
    ctx.set_materialize_grads(False)
    head = args.head
    ctx.save_for_backward(head.hidden, head.weight, head.bias, head.temperatures, *more)
    ctx.rest_of_head = head[4:]
    ctx.gradients = args.gradients
    # Not a saved tensor: that another backward has added to it meanwhile is no mistake.
    ctx.dweight_accumulate = args.dweight_accumulate


def _differentiate(ctx: Any, op: Any, op_into: Any, args: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
    """Gradients of hidden, weight and bias; None where none is wanted."""
    need_hidden, need_weight = ctx.needs_input_grad[:2]
    need_bias = ctx.needs_input_grad[2]
    if need_weight and ctx.dweight_accumulate is not None:
        dhidden, dbias = op_into(*args, ctx.gradients, need_hidden, ctx.dweight_accumulate, need_bias)
        dweight = None
    else:
        dhidden, dweight, dbias = op(*args, ctx.gradients, need_hidden, need_weight, need_bias)
    return dhidden if need_hidden else None, dweight if need_weight else None, dbias if need_bias else None


def _setup_score(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    args = _ScoreArgs.of(inputs)
    _save_head(ctx, args, *args.support, args.token_ids, *output[3:6])
    ctx.mark_non_differentiable(output[3], output[5])
    ctx.ignore_index, ctx.inputs = args.ignore_index, len(inputs)


def _backward_score(
    ctx: Any,
    d_logprobs: Tensor | None,
    d_entropy: Tensor | None,
    d_lse: Tensor | None,
    _: None,
    d_top_k: Tensor | None,
    __: None,
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    args = (
        *saved[:4],
        *ctx.rest_of_head,
        *saved[4:10],
        ctx.ignore_index,
        *saved[10:13],
        d_logprobs,
        d_entropy,
        d_lse,
        d_top_k,
    )
    found = _differentiate(ctx, _torch_backward.score_backward, _torch_backward.score_backward_into, args)
    return (*found, *(None,) * (ctx.inputs - len(found)))


def _setup_logits(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _save_head(ctx, _LogitsArgs.of(inputs))
    ctx.inputs = len(inputs)


def _backward_logits(ctx: Any, d_logits: Tensor) -> tuple[Tensor | None, ...]:
    args = (*ctx.saved_tensors, *ctx.rest_of_head, d_logits)
    found = _differentiate(ctx, _torch_backward.logits_backward, _torch_backward.logits_backward_into, args)
    return (*found, *(None,) * (ctx.inputs - len(found)))


score.register_autograd(_backward_score, setup_context=_setup_score)
logits.register_autograd(_backward_logits, setup_context=_setup_logits)
