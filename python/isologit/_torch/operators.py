"""isologit::score, isologit::logits and isologit::sample, and how autograd goes through them.

`gradients` is the arithmetic of the gradients, and `dweight_accumulate` a buffer that the gradient of the weight is
added to in the place of being returned. Forward only passes them on. Which gradients are wanted is decided when
backward runs; with which kernel they are made, by `counts`: what forward reports of itself.
"""

from typing import Any

from torch import Tensor

from isologit import _logits, _native, _sample, _sample_of_logits, _score
from isologit._inputs import HeadArgs
from isologit._torch import backward, fingerprint
from isologit._torch.schema import HEAD, SUPPORT, operator

_GRADIENTS = "str gradients, Tensor? dweight_accumulate"


_TENSORS = ("hidden", "weight", "bias", "temperatures", "lora_a", "lora_b")  # of a head, as they are saved
_DIFFERENTIABLE = ("hidden", "weight", "bias", "lora_a", "lora_b")


def _save_head(ctx: Any, head: HeadArgs, gradients: str, dweight_accumulate: Tensor | None, *more: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(getattr(head, name) for name in _TENSORS), *more)
    ctx.rest_of_head = {name: value for name, value in head._asdict().items() if name not in _TENSORS}
    ctx.gradients = gradients
    # Not a saved tensor: that another backward has added to it meanwhile is no mistake.
    ctx.dweight_accumulate = dweight_accumulate


def _differentiate(ctx: Any, op: Any, op_into: Any, inputs: int, *args: Any) -> tuple[Tensor | None, ...]:
    """Gradients of all inputs; None where none is wanted."""
    places = [HeadArgs._fields.index(name) for name in _DIFFERENTIABLE]
    needs = [ctx.needs_input_grad[place] for place in places]
    head = HeadArgs(**dict(zip(_TENSORS, ctx.saved_tensors, strict=False)), **ctx.rest_of_head)
    args = (*head, *args, ctx.gradients, needs[0])
    if needs[1] and ctx.dweight_accumulate is not None:
        dhidden, *rest = op_into(*args, ctx.dweight_accumulate, *needs[2:])
        found = (dhidden, None, *rest)
    else:
        found = op(*args, *needs[1:])
    gradients: list[Tensor | None] = [None] * inputs
    for place, gradient, needed in zip(places, found, needs, strict=True):
        gradients[place] = gradient if needed else None
    return tuple(gradients)


def _run_score(*flat: Any) -> tuple[Tensor, ...]:
    _native.arithmetic_code(flat[-2], "gradients")  # rather now than in backward
    args = _score.ScoreArgs.of(flat)
    results = _score.run(args)
    if args.summaries:
        results.summaries[-1] = fingerprint.fingerprint(args.head, args.support, args.token_ids)
    return tuple(results)


def _setup_score(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    args, results = _score.ScoreArgs.of(inputs), _score.Results(*output)
    made = (args.token_ids, results.top_k_ids, results.top_k_logprobs, results.summaries, results.counts)
    _save_head(ctx, args.head, *inputs[-2:], *args.support, *made)
    constants = (name for name in results._fields if name not in backward.DIFFERENTIABLE)
    ctx.mark_non_differentiable(*(getattr(results, name) for name in constants))
    ctx.ignore_index, ctx.inputs = args.ignore_index, len(inputs)


def _backward_score(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    by_name = dict(zip(_score.Results._fields, upstream, strict=True))
    support, made = ctx.saved_tensors[6:11], ctx.saved_tensors[11:]
    args = (*support, *made, ctx.ignore_index, *(by_name[name] for name in backward.DIFFERENTIABLE))
    return _differentiate(ctx, backward.score_backward, backward.score_backward_into, ctx.inputs, *args)


def _run_logits(*flat: Any) -> tuple[Tensor, ...]:
    _native.arithmetic_code(flat[-2], "gradients")
    return _logits.run(_logits.LogitsArgs.of(flat))


def _setup_logits(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _save_head(ctx, _logits.LogitsArgs.of(inputs).head, *inputs[-2:], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.inputs = len(inputs)


def _backward_logits(ctx: Any, d_logits: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    args = (ctx.saved_tensors[6], d_logits)
    return _differentiate(ctx, backward.logits_backward, backward.logits_backward_into, ctx.inputs, *args)


score = operator(
    "score",
    f"({HEAD}, {SUPPORT}, Tensor? token_ids, SymInt ignore_index, str[] outputs, SymInt top_k, bool summaries, "
    f"{_GRADIENTS}) -> ({', '.join(['Tensor'] * len(_score.Results._fields))})",
    _run_score,
    lambda *flat: tuple(_score.Results.zeros(_score.ScoreArgs.of(flat))),
)
score.register_autograd(_backward_score, setup_context=_setup_score)
logits = operator(
    "logits",
    f"({HEAD}, ScalarType dtype, {_GRADIENTS}) -> (Tensor, Tensor)",
    _run_logits,
    lambda *flat: _logits.LogitsArgs.of(flat).zeros(),
)
logits.register_autograd(_backward_logits, setup_context=_setup_logits)
sample = operator(
    "sample",
    f"({HEAD}, {SUPPORT}, Tensor seeds, Tensor sequence_ids, Tensor positions, Tensor min_p, Tensor top_k, "
    f"Tensor top_p) -> ({', '.join(['Tensor'] * len(_sample.Samples._fields))})",
    lambda *flat: tuple(_sample.run(_sample.SampleArgs.of(flat))),
    lambda *flat: tuple(_sample.SampleArgs.of(flat).zeros()),
)
_OF_LOGITS = (
    "Tensor logits, Tensor temperatures, Tensor seeds, Tensor sequence_ids, Tensor positions, Tensor min_p, "
    "Tensor top_k, Tensor top_p, int threads, int[] processors, str kernel"
)
sample_of_logits = operator(
    "sample_of_logits",
    f"({_OF_LOGITS}) -> ({', '.join(['Tensor'] * len(_sample.Samples._fields))})",
    lambda *args: tuple(_sample_of_logits.SampleOfLogitsArgs(*args).draw()),
    lambda *args: tuple(_sample_of_logits.SampleOfLogitsArgs(*args).zeros()),
)
cut_mask_of_logits = operator(
    "cut_mask_of_logits",
    f"({_OF_LOGITS}) -> Tensor",
    lambda *args: _sample_of_logits.SampleOfLogitsArgs(*args).cut_mask(),
    lambda *args: _sample_of_logits.SampleOfLogitsArgs(*args).mask_zeros(),
)
