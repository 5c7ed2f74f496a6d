"""Deferred logits in a graph of torch.compile: the graph returns hidden states in their place.

In the graph they are a NaN that is expanded to their shape, whose attributes say what they are of. When the graph has
run and something looks at them, they are DeferredLogits of that.
"""

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from isologit import _deferred, _numbers
from isologit._deferred import DeferredLogits, Steps
from isologit._torch.schema import operator as torch_operator

_STEPS = {
    "div": (torch.div, torch.true_divide, Tensor.div, Tensor.true_divide, Tensor.__truediv__, operator.truediv),
    "mul": (torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__, operator.mul),
    "tanh": (torch.tanh, Tensor.tanh),
}
# What does not look at values.
_FACTS = (Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.device.__get__, Tensor.size, Tensor.dim, Tensor.numel)


class TracedLogits(Tensor):
    """f32 [..., V] in the memory of one value."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if not _numbers.traced():
            # What DeferredLogits has of its own is called by its name, as that of a tensor would be.
            function = vars(DeferredLogits).get(getattr(function, "__name__", ""), function)
            return function(*_outside(arguments), **_outside(named or {}))
        step = _step_of(function, arguments)
        if step is not None:
            return arguments[0].then(step)
        if function in _FACTS:
            return super().__torch_function__(function, types, arguments, named or {})
        return function(*_inside(arguments), **_inside(named or {}))

    def then(self, *steps: Any) -> "TracedLogits":
        return _placeholder(self.head, self.hidden, self.marks, (*self.steps, *steps))


def _placeholder(head: nn.Module, hidden: Tensor, marks: Tensor, steps: Steps) -> TracedLogits:
    rows = head.weight.shape[0] if head.vocab_size is None else head.vocab_size
    nothing = hidden.new_full((), float("nan"), dtype=torch.float32)
    logits = nothing.expand(*hidden.shape[:-1], rows).as_subclass(TracedLogits)
    logits.head, logits.hidden, logits.marks, logits.steps = head, hidden, marks, steps
    logits.parameters = tuple(_deferred.parameters_of(head))
    logits.graded = torch.is_grad_enabled()
    logits.made = logits.deferred = None
    return logits


def traced(head: nn.Module, hidden: Tensor) -> TracedLogits:
    """The head's logits of hidden."""
    return _placeholder(head, hidden, _marks(hidden.detach(), _deferred.parameters_of(head)), ())


def _step_of(function: Any, arguments: Any) -> Any:
    logits, *numbers = arguments
    if isinstance(logits, TracedLogits) and logits.made is None and all(isinstance(x, (int, float)) for x in numbers):
        for name, functions in _STEPS.items():
            if function in functions:
                return (name, *numbers)
    return None


def _inside(arguments: Any) -> Any:
    """In the graph: logits that are made."""
    return tree_map_only(TracedLogits, _made, arguments)


def _made(logits: TracedLogits) -> Tensor:
    """Kept, since what is done next may change them in place, or what shares their memory."""
    if logits.made is None:
        logits.made = _deferred.after(logits.head.plain_logits(logits.hidden), logits.steps)
    return logits.made


def _outside(arguments: Any) -> Any:
    return tree_map_only(TracedLogits, deferred, arguments)


def deferred(logits: TracedLogits) -> Tensor:
    """What the graph has returned, as the model would have without it."""
    if logits.made is not None:
        return logits.made
    if logits.deferred is None:
        with torch.set_grad_enabled(logits.graded):
            found = _deferred.deferred(logits.head, logits.hidden)
            found.recipe.parameters, found.recipe.marks = list(logits.parameters), logits.marks.tolist()
            found.recipe.by_bits = True
            logits.deferred = _deferred.after(found, logits.steps)
    return logits.deferred


_marks = torch_operator(
    "marks",
    "(Tensor hidden, Tensor[] parameters) -> Tensor",
    lambda hidden, parameters: hidden.new_tensor(_deferred.marks(hidden, parameters, by_bits=True), dtype=torch.int64),
    lambda hidden, parameters: hidden.new_empty(1 + len(parameters), dtype=torch.int64),
)
