"""Logits that are not made until somebody looks at them: what is not looked at takes no memory.

Where anything but the head's own steps is done with them they are made, and are then the tensor that the head gives;
autograd goes through them either way.
"""

import copy
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from isologit._torch import fingerprint

_ATEN = torch.ops.aten
_STEPS = {_ATEN.div.Tensor: "div", _ATEN.tanh.default: "tanh", _ATEN.mul.Tensor: "mul"}
Step = tuple[Any, ...]  # a function of torch, and its number if it takes one
Steps = tuple[Step, ...]


class Recipe:
    """What logits are of: a head, hidden states [..., H], and the steps of a softcap and a scale that the model has
    taken since, each an operator and its number. They are made once."""

    def __init__(self, head: nn.Module, hidden: Tensor, steps: Steps = (), by_bits: bool = False) -> None:
        """by_bits: whether a change of hidden is to be seen by its bits."""
        self.head, self.hidden, self.steps, self.by_bits = head, hidden, steps, by_bits
        self.parameters = parameters_of(head)
        self.marks = marks(hidden, self.parameters, by_bits)
        self.made: Tensor | None = None
        self.changed = False  # by an operation in place

    def then(self, *steps: Step) -> "Recipe":
        """Of the logits after further steps; of a copy of them if there are none."""
        recipe = copy.copy(self)
        recipe.steps = (*self.steps, *steps)
        return recipe

    def holds(self) -> bool:
        """Whether hidden states and parameters are what they were."""
        now = parameters_of(self.head)
        same = len(now) == len(self.parameters) and all(map(operator.is_, now, self.parameters))
        return same and self.marks == marks(self.hidden, now, self.by_bits)

    def make(self) -> Tensor:
        """The logits, without autograd: below it."""
        if self.made is None:
            if not self.holds():
                raise RuntimeError(
                    "logits: the weight or the hidden states were changed since the model was called with labels, "
                    "which leaves logits to be made when they are looked at, or FSDP has sharded the weight again; "
                    "look at them before, or call it without"
                )
            with torch.no_grad():
                self.made = after(self.head.plain_logits(self.hidden), self.steps)
        return self.made

    def is_of_the_head(self) -> bool:
        """Whether all that was done to the logits are the transforms of the head, in its order."""
        return not self.changed and are_of_the_head(self.steps, self.head)


class DeferredLogits(Tensor):
    """f32 [..., V], without memory of its own."""

    @staticmethod
    def __new__(cls, recipe: Recipe) -> "DeferredLogits":
        head, hidden = recipe.head, recipe.hidden
        rows = head.weight.shape[0] if head.vocab_size is None else head.vocab_size
        shape = (*hidden.shape[:-1], rows)
        return Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=hidden.device)

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    __torch_function__ = torch._C._disabled_torch_function_impl

    # What torch refuses to subclasses, or does without dispatch.
    def tolist(self) -> list[Any]:
        return self.recipe.make().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if self.requires_grad and not force:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return self.recipe.make().numpy(force=force)

    def data_ptr(self) -> int:
        return self.recipe.make().data_ptr()

    def __dlpack__(self, **options: Any) -> Any:
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        return self.recipe.make().__dlpack__(**options)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.recipe.make().detach().requires_grad_(self.requires_grad).__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        recipe = _recipe_after(function, arguments)
        if recipe is not None:
            with torch.inference_mode(arguments[0].is_inference()):  # not by the mode that is on now
                return cls(recipe)
        found = function(*_made(arguments), **_made(named or {}))
        if any(argument.alias_info and argument.alias_info.is_write for argument in function._schema.arguments):
            for argument in arguments:
                if isinstance(argument, DeferredLogits):
                    argument.recipe.changed = True
                    return argument
        return found


def _recipe_after(function: Any, arguments: Any) -> Recipe | None:
    """Of what an operation gives, if it need not look at its logits: autograd saves what tanh gives, DDP that looks for
    unused parameters copies all that a model returns."""
    logits, *numbers = arguments
    if not isinstance(logits, DeferredLogits) or logits.recipe.made is not None:
        return None
    if function is _ATEN.detach.default:
        return logits.recipe  # the same memory
    if function is _ATEN.clone.default:
        return logits.recipe.then()
    if function in _STEPS and all(isinstance(x, (int, float)) for x in numbers):
        return logits.recipe.then((_STEPS[function], *numbers))
    return None


def steps_of(head: nn.Module) -> Steps:
    """The transforms of a head as models of Transformers write them."""
    cap = () if head.softcap is None else (("div", head.softcap), ("tanh",), ("mul", head.softcap))
    scale = () if head.scale is None else (("mul", head.scale),)
    scale += () if head.divide is None else (("div", head.divide),)
    return scale + cap if head.transform_order == "scale_first" else cap + scale


def _taken(steps: Steps) -> Steps:
    """Without products with 1 and divisions by it."""
    return tuple(step for step in steps if step[1:] != (1,))


def are_of_the_head(steps: Steps, head: nn.Module) -> bool:
    return _taken(steps) == _taken(steps_of(head))


def after(logits: Tensor, steps: Steps) -> Tensor:
    for function, *number in steps:
        logits = getattr(torch, function)(logits, *number)
    return logits


def _made(arguments: Any) -> Any:
    return tree_map_only(DeferredLogits, lambda logits: logits.recipe.make(), arguments)


def parameters_of(head: nn.Module) -> list[Tensor]:
    return [x for x in (head.weight, head.bias, *(head.lora or ())[:2]) if x is not None]


def marks(hidden: Tensor, parameters: Sequence[Tensor], by_bits: bool = False) -> list[int]:
    """By which changes are seen: how often they were written to; sums of bits by_bits of hidden, and of tensors of
    inference mode, where nothing is counted."""
    by_bits = by_bits or hidden.is_inference()
    of_parameters = [fingerprint.of(x) if x.is_inference() else x._version for x in parameters]
    return [fingerprint.of(hidden) if by_bits else hidden._version, *of_parameters]


class _Defer(torch.autograd.Function):
    """Deferred logits of a head; backward is that of its logits."""

    @staticmethod
    def forward(ctx: Any, head: nn.Module, hidden: Tensor, *parameters: Tensor) -> Tensor:
        ctx.head = head
        ctx.set_materialize_grads(False)  # of logits that no loss is of
        ctx.save_for_backward(hidden, *parameters)
        return DeferredLogits(Recipe(head, hidden.detach()))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        if upstream is None:
            return (None,) * len(ctx.needs_input_grad)
        hidden, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            hidden = hidden.detach().requires_grad_()
            z = ctx.head.plain_logits(hidden)
        wanted = [x for x, needs in zip((hidden, *parameters), ctx.needs_input_grad[1:], strict=True) if needs]
        found = iter(torch.autograd.grad(z, wanted, upstream))
        return None, *(next(found) if needs else None for needs in ctx.needs_input_grad[1:])


def deferred(head: nn.Module, hidden: Tensor) -> DeferredLogits:
    """The head's logits of hidden. `recipe.hidden` is hidden, with its graph."""
    logits = _Defer.apply(head, hidden, *parameters_of(head))
    logits.recipe.hidden = hidden
    return logits
