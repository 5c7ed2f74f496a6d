"""Real packages that want a GPU or much else: the files of theirs that matter, run without the rest; and in f64."""

import contextlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator
from unittest import mock

import torch


@contextlib.contextmanager
def imported(*bare: str, stand_ins: dict[str, dict] | None = None) -> Iterator[None]:
    """With these packages, parents first, but not their __init__; and with modules of attributes in others' place.

    Afterwards all of them are as they were.
    """
    before = dict(sys.modules)
    for name in bare:
        parent = name.rpartition(".")[0]
        path = sys.modules[parent].__path__ if parent else None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        module = types.ModuleType(name)
        module.__path__, module.__spec__ = list(spec.submodule_search_locations), spec
        sys.modules[name] = module
    for name, attributes in (stand_ins or {}).items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__dict__.update(attributes)
        sys.modules[name] = module
    try:
        yield
    finally:
        roots = {name.partition(".")[0] for name in (*bare, *(stand_ins or {}))}
        for name in [name for name in sys.modules if name.partition(".")[0] in roots]:
            del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name.partition(".")[0] in roots})


class _F64Torch:
    """torch, whose float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str):
        return getattr(torch, name)


@contextlib.contextmanager
def in_f64(*modules: types.ModuleType) -> Iterator[None]:
    """The code of these modules, which asks for f32 in many places, computes in f64."""
    to = torch.Tensor.to

    def to_f64(self, *args, **kwargs):
        args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        return to(self, *args, **{k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()})

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "torch", _F64Torch()))
        stack.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        stack.enter_context(mock.patch.object(torch.Tensor, "to", to_f64))
        yield


def ulp(values: torch.Tensor) -> torch.Tensor:
    """Of f32 at these f64 values."""
    return torch.exp2(torch.floor(torch.log2(values.abs().clamp(min=2.0**-126))) - 23)
