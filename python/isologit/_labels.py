"""The loss of a model of Transformers that is called with labels: made of the hidden states, whose logits are left to
be made when somebody looks at them.
"""

import functools
import inspect
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isologit import _deferred_traced, _numbers, losses
from isologit._deferred import DeferredLogits, are_of_the_head, deferred
from isologit._deferred_traced import TracedLogits


def _called(head: nn.Module) -> nn.Module:
    """The module whose forward is the head's: the head, or the layer that PEFT has wrapped."""
    return getattr(head, "_layer", head)


def _is_alone(head: nn.Module) -> bool:
    """Whether nothing is called after the head's forward: that could take the weight away (FSDP2, offloading)."""
    layer = _called(head)
    own = vars(layer).get("forward")
    return not layer._forward_hooks and (own is None or isinstance(own, types.MethodType) and own.__self__ is head)


def _evaluates_over_ranks() -> bool:
    """Evaluation looks at logits when the model has returned, and FSDP has sharded the weight again."""
    return not torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized()


def defer(head: nn.Module, hidden: Tensor) -> Tensor:
    """In the place of the head's logits of hidden; these, where the weight may be gone when evaluation looks at them,
    or hooks of a graph would be given what no hook knows."""
    if _numbers.traced():
        if _evaluates_over_ranks() or not _is_alone(head):
            return head.plain_logits(hidden)
        return _deferred_traced.traced(head, hidden)
    if not torch.is_grad_enabled() and not _is_alone(head):
        return head.plain_logits(hidden)
    return deferred(head, hidden)


def _where_the_weight_is(head: nn.Module, hidden: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """function(hidden), called in the place of the head's forward: what brings the weight back for that (FSDP2's hooks,
    accelerate's) brings it back for this. Gradients go through what hooks have made of hidden, if that is the same."""
    former = head.instead
    head.instead = lambda given: function(given if given.data_ptr() == hidden.data_ptr() else hidden)
    try:
        return _called(head)(hidden)
    finally:
        head.instead = former


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
    if isinstance(logits, TracedLogits) and not _numbers.traced():
        logits = _deferred_traced.deferred(logits)
    if isinstance(logits, TracedLogits):
        left = logits.made is None and are_of_the_head(logits.steps, logits.head)
    else:
        left = isinstance(logits, DeferredLogits) and logits.recipe.is_of_the_head()
    if not left or others.get("weight") is not None:
        from transformers.loss.loss_utils import ForCausalLMLoss

        return ForCausalLMLoss(logits, labels, vocab_size, num_items_in_batch, ignore_index, shift_labels, **others)
    if shift_labels is None:
        shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    of = logits if isinstance(logits, TracedLogits) else logits.recipe
    head, hidden = of.head, of.hidden
    hidden = hidden.reshape(-1, hidden.shape[-1])
    target = shift_labels.reshape(-1).to(hidden.device)
    reduction = "mean" if num_items_in_batch is None else "none"
    entropy = functools.partial(head.cross_entropy, target=target, ignore_index=ignore_index, reduction=reduction)
    if isinstance(logits, DeferredLogits) and _evaluates_over_ranks():
        logits.recipe.make()
    there = _is_alone(head) or logits.recipe.holds()
    loss = entropy(hidden) if there else _where_the_weight_is(head, hidden, entropy)
    return loss if num_items_in_batch is None else losses.mean(loss, num_items_in_batch)


class _Deferring:
    """Hooks of a model: its head defers while the model is called with labels."""

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        self.head = head
        self.handles = [
            model.register_forward_pre_hook(self.before, with_kwargs=True),
            model.register_forward_hook(self.after, always_call=True),
        ]

    def before(self, model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.head.instead = None if named.get("labels") is None else functools.partial(defer, self.head)

    def after(self, model: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self.head.instead = None


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
