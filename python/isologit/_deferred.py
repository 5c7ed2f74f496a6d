"""Logits that are not made until somebody looks at them, for a model of Transformers that is called with labels: its
loss is made of the hidden states, and what is not looked at takes no memory.

Where the model's own code or its caller does anything with such logits, they are made, and are then the tensor that
the head gives; autograd goes through them either way.
"""

import copy
import inspect
import operator
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from isologit import _numbers, losses

_ATEN = torch.ops.aten
_DIVIDE, _TANH, _MULTIPLY = _ATEN.div.Tensor, _ATEN.tanh.default, _ATEN.mul.Tensor
Step = tuple[Any, ...]  # an operator of logits, and its number if it has one
Steps = tuple[Step, ...]


class _Recipe:
    """What logits are of: a head, hidden states [..., H], and the steps of a softcap and a scale that the model has
    taken since, each an operator and its number. They are made once."""

    def __init__(self, head: nn.Module, hidden: Tensor, steps: Steps = ()) -> None:
        self.head, self.hidden, self.steps = head, hidden, steps
        self.parameters = _parameters(head)
        self.versions = _versions(hidden, self.parameters)
        self.made: Tensor | None = None
        self.changed = False  # by an operation in place

    def then(self, *steps: Step) -> "_Recipe":
        """Of the logits after further steps; of a copy of them if there are none."""
        recipe = copy.copy(self)
        recipe.steps = (*self.steps, *steps)
        return recipe

    def make(self) -> Tensor:
        """The logits, without autograd: below it."""
        if self.made is None:
            now = _parameters(self.head)
            same = len(now) == len(self.parameters) and all(map(operator.is_, now, self.parameters))
            if not same or self.versions != _versions(self.hidden, now):
                raise RuntimeError(
                    "logits: the weight or the hidden states were changed since the model was called with labels, "
                    "which leaves logits to be made when they are looked at, or FSDP has sharded the weight again; "
                    "look at them before, or call it without"
                )
            with torch.no_grad():
                made = self.head.plain_logits(self.hidden)
                for function, *number in self.steps:
                    made = function(made, *number)
            self.made = made
        return self.made

    def is_of_the_head(self) -> bool:
        """Whether all that was done to the logits are the transforms of the head, in its order."""
        return not self.changed and _taken(self.steps) == _taken(_steps_of(self.head))


class DeferredLogits(Tensor):
    """f32 [..., V], without memory of its own."""

    @staticmethod
    def __new__(cls, recipe: _Recipe) -> "DeferredLogits":
        head, hidden = recipe.head, recipe.hidden
        rows = head.weight.shape[0] if head.vocab_size is None else head.vocab_size
        shape = (*hidden.shape[:-1], rows)
        return Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=hidden.device)

    def __init__(self, recipe: _Recipe) -> None:
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
            return cls(recipe)
        found = function(*_made(arguments), **_made(named or {}))
        if any(argument.alias_info and argument.alias_info.is_write for argument in function._schema.arguments):
            for argument in arguments:
                if isinstance(argument, DeferredLogits):
                    argument.recipe.changed = True
                    return argument
        return found


def _recipe_after(function: Any, arguments: Any) -> _Recipe | None:
    """Of what an operation gives, if it need not look at its logits: autograd saves what tanh gives, DDP that looks for
    unused parameters copies all that a model returns."""
    logits, *numbers = arguments
    if not isinstance(logits, DeferredLogits) or logits.recipe.made is not None:
        return None
    if function is _ATEN.detach.default:
        return logits.recipe  # the same memory
    if function is _ATEN.clone.default:
        return logits.recipe.then()
    if function in (_DIVIDE, _TANH, _MULTIPLY) and all(isinstance(x, (int, float)) for x in numbers):
        return logits.recipe.then((function, *numbers))
    return None


def _steps_of(head: nn.Module) -> Steps:
    """The transforms of a head as models of Transformers write them."""
    cap = () if head.softcap is None else ((_DIVIDE, head.softcap), (_TANH,), (_MULTIPLY, head.softcap))
    scale = () if head.scale is None else ((_MULTIPLY, head.scale),)
    scale += () if head.divide is None else ((_DIVIDE, head.divide),)
    return scale + cap if head.transform_order == "scale_first" else cap + scale


def _taken(steps: Steps) -> Steps:
    """Without products with 1 and divisions by it."""
    return tuple(step for step in steps if step[1:] != (1,))


def _made(arguments: Any) -> Any:
    return tree_map_only(DeferredLogits, lambda logits: logits.recipe.make(), arguments)


def _parameters(head: nn.Module) -> list[Tensor]:
    return [x for x in (head.weight, head.bias, *(head.lora or ())[:2]) if x is not None]


def _versions(hidden: Tensor, parameters: list[Tensor]) -> list[int]:
    return [x._version for x in (hidden, *parameters)]


class _Defer(torch.autograd.Function):
    """Deferred logits of a head; backward is that of its logits."""

    @staticmethod
    def forward(ctx: Any, head: nn.Module, hidden: Tensor, *parameters: Tensor) -> Tensor:
        ctx.head = head
        ctx.set_materialize_grads(False)  # of logits that no loss is of
        ctx.save_for_backward(hidden, *parameters)
        return DeferredLogits(_Recipe(head, hidden.detach()))

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


def _is_alone(head: nn.Module) -> bool:
    """Whether nothing is called after the head's forward: that could take the weight away (FSDP2, offloading)."""
    layer = getattr(head, "_layer", head)
    return not layer._forward_hooks and getattr(layer.forward, "__self__", None) is head


def defer(head: nn.Module, hidden: Tensor) -> Tensor:
    """In the place of the head's logits of hidden; these, where the weight may not stay, or changes are not counted."""
    if not _is_alone(head) or any(x.is_inference() for x in (hidden, *_parameters(head))):
        return head.plain_logits(hidden)
    deferred = _Defer.apply(head, hidden, *_parameters(head))
    deferred.recipe.hidden = hidden  # with its graph, which the loss goes through
    return deferred


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor | None,
    vocab_size: int,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **others: Any,
) -> Tensor:
    """transformers.loss.loss_utils.ForCausalLMLoss; of logits that nobody has looked at, their hidden states' cross
    entropy, over num_items_in_batch rounded once. Token t + 1 is scored at t, unless shift_labels tell what is."""
    deferred = isinstance(logits, DeferredLogits) and logits.recipe.is_of_the_head()
    if not deferred or others.get("weight") is not None:
        from transformers.loss.loss_utils import ForCausalLMLoss

        return ForCausalLMLoss(logits, labels, vocab_size, num_items_in_batch, ignore_index, shift_labels, **others)
    if shift_labels is None:
        shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    head, hidden = logits.recipe.head, logits.recipe.hidden
    hidden = hidden.reshape(-1, hidden.shape[-1])
    target = shift_labels.reshape(-1).to(hidden.device)
    if not torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized():
        # Evaluation looks at them when the model has returned, and FSDP has sharded the weight again.
        logits.recipe.make()
    if num_items_in_batch is None:
        return head.cross_entropy(hidden, target, ignore_index=ignore_index)
    each = head.cross_entropy(hidden, target, ignore_index=ignore_index, reduction="none")
    return losses.mean(each, num_items_in_batch)


class _Deferring:
    """Hooks of a model: its head defers while the model is called with labels."""

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        self.head = head
        self.handles = [
            model.register_forward_pre_hook(self.before, with_kwargs=True),
            model.register_forward_hook(self.after, always_call=True),
        ]

    def before(self, model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not _numbers.traced():
            self.head.defers = named.get("labels") is not None

    def after(self, model: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if not _numbers.traced():
            self.head.defers = False


def _inner(model: nn.Module) -> nn.Module:
    """That which PEFT has wrapped."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def begin(model: nn.Module, head: nn.Module) -> None:
    """Calls with labels defer from here on, if the model's loss is Transformers' usual one."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    from isologit.integrations import _adapter, _table

    try:
        _adapter.check(_table.TRANSFORMERS)
    except (ImportError, NotImplementedError) as moved:
        warnings.warn(f"{moved}; models that are called with labels will make logits for their loss", stacklevel=3)
        return
    model = _inner(model)
    names = inspect.unwrap(type(model).forward).__code__.co_names
    if "loss_function" in names and getattr(model, "loss_function", None) is ForCausalLMLoss:
        model.loss_function = causal_lm_loss
        model._isologit_deferring = _Deferring(model, head)


def end(model: nn.Module) -> None:
    model = _inner(model)
    if hasattr(model, "_isologit_deferring"):
        for handle in model._isologit_deferring.handles:
            handle.remove()
        del model._isologit_deferring, model._loss_function
