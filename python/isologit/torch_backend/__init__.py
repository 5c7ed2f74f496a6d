"""The head made of torch's own operations, for any device of torch: kernel "torch".

It takes the calls whose tensors are on a device that the library has no kernels for, and all whose kernel is "torch".
The results are those of the library, bit for bit. Logits are the vendor's f64 products with a certificate; folds are
f64 sums with bounds; what these leave undecided, single logits and rows, goes to the library's core on the CPU, as do
samples and exact gradients. What a call allocates does not grow with its rows.

limits       how much at a time
rounding     once, of f64 tensors
products     logits of a block
transforms   softcap, scale, divisor, temperature
blocks       logits of a head, a block at a time
folds        lse, logprobs, entropy and others of rows of logits
order        rank and top-k
score        the operators isologit::score and isologit::logits
backward     their gradients
given        the operators of given logits, and samples
running      which function makes which operator, and where
core         what the CPU decides
self_test    what is looked at before a device is used
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isologit import _native


def takes(arguments: tuple[Any, ...]) -> bool:
    """Whether a call of an operator is one for this backend: by a tensor's device, or by the name of the kernel."""
    for argument in arguments:  # at every call of every operator
        if isinstance(argument, Tensor):
            if not argument.is_cpu:
                return True
        elif isinstance(argument, str) and argument == _native.TORCH:
            return True
    return False


def device_of(arguments: tuple[Any, ...]) -> torch.device | None:
    """That of the tensors among an operator's arguments, if there are any; an error if they are on several."""
    devices = {argument.device for argument in arguments if isinstance(argument, Tensor)}
    if len(devices) > 1:
        raise ValueError(f"operands are on {', '.join(sorted(map(str, devices)))}; expected one device")
    return devices.pop() if devices else None


def run(operator: str, arguments: tuple[Any, ...], otherwise: Callable[..., Any]) -> Any:
    """isologit::operator of these arguments, on the device of its tensors; by `otherwise` where it is none of this
    backend's."""
    from isologit.torch_backend import running

    return running.run(operator, arguments, otherwise)
