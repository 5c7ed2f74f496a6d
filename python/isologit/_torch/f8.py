"""How autograd goes through a weight of f8, which is no tensor: to hidden, bias and the factors of lora."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isologit import _logits, _native, _score
from isologit._logits import LogitsArgs
from isologit._score import Results, ScoreArgs
from isologit._torch import backward, fingerprint

_OPERANDS = ("hidden", "bias", "lora_a", "lora_b")


def score(args: ScoreArgs, gradients: str) -> Results:
    _native.arithmetic_code(gradients, "gradients")  # rather now than in backward
    args = args._replace(summaries=True)
    return Results(*_Score.apply(*_operands(args), args, gradients))


def logits(args: LogitsArgs, gradients: str) -> tuple[Tensor, Tensor]:
    _native.arithmetic_code(gradients, "gradients")
    return _Logits.apply(*_operands(args), args, gradients)


def _operands(args: Any) -> list[Tensor | None]:
    return [getattr(args.head, name) for name in _OPERANDS]


def _save(ctx: Any, args: Any, gradients: str, *more: Tensor) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*_operands(args), *more)
    ctx.args, ctx.gradients = args._replace(head=args.head._replace(**dict.fromkeys(_OPERANDS))), gradients


def _head(ctx: Any) -> Any:
    """An error where an operand was written to."""
    return ctx.args.head._replace(**dict(zip(_OPERANDS, ctx.saved_tensors[: len(_OPERANDS)], strict=True)))


def _found(ctx: Any, run: Any, *args: Any) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[: len(_OPERANDS)]
    dhidden, _, *others = run(*args, ctx.gradients, needs[0], False, *needs[1:])
    found = zip((dhidden, *others), needs, strict=True)
    return *(gradient if wanted else None for gradient, wanted in found), None, None


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        args, gradients = given[-2:]
        results = _score.run(args)
        results.summaries[-1] = fingerprint.fingerprint(args.head, args.support, args.token_ids)
        made = (results.top_k_ids, results.top_k_logprobs, results.summaries, results.counts)
        _save(ctx, args, gradients, *(x.detach().clone() for x in made))  # outputs would refer to themselves
        constants = (name for name in results._fields if name not in backward.DIFFERENTIABLE)
        ctx.mark_non_differentiable(*(getattr(results, name) for name in constants))
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        by_name = dict(zip(Results._fields, upstream, strict=True))
        made, args = ctx.saved_tensors[len(_OPERANDS) :], ctx.args
        given = (*_head(ctx), *args.support, args.token_ids, *made, args.ignore_index)
        return _found(ctx, backward.run_score, *given, *(by_name[name] for name in backward.DIFFERENTIABLE))


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        args, gradients = given[-2:]
        result, counts = _logits.run(args)
        _save(ctx, args, gradients, counts.detach().clone())
        ctx.mark_non_differentiable(counts)
        return result, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logits: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if d_logits is None:
            return (None,) * (len(_OPERANDS) + 2)
        return _found(ctx, backward.run_logits, *_head(ctx), ctx.saved_tensors[-1], d_logits)
