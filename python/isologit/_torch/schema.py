"""What the schemas of the operators have in common, and how one is made."""

from collections.abc import Callable
from typing import Any

import torch

from isologit import torch_backend

HEAD = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor temperatures, SymInt vocab_size, float? softcap, "
    "float? scale, float? divide, str transform_order, str arithmetic, int threads, int[] processors, str kernel, "
    "Tensor? lora_a, Tensor? lora_b, float lora_scale"
)
SUPPORT = "Tensor? mask, Tensor? kept_offsets, Tensor? kept_ids, Tensor? banned_offsets, Tensor? banned_ids"


def operator(name: str, schema: str, run: Callable, fake: Callable, mutates: tuple[str, ...] = ()) -> Any:
    """isologit::name. fake(*arguments) makes results of the right shapes, for graphs.

    run is for tensors on the CPU, or copies them there itself; those on other devices, and kernel "torch", are for the
    torch backend where that has the operator.
    """

    def by_device(*arguments: Any) -> Any:
        return torch_backend.run(name, arguments, run) if torch_backend.takes(arguments) else run(*arguments)

    made = torch.library.custom_op(f"isologit::{name}", by_device, mutates_args=mutates, schema=schema)

    def on_one_device(*arguments: Any) -> Any:
        torch_backend.device_of(arguments)
        return fake(*arguments)

    made.register_fake(on_one_device)
    return made
