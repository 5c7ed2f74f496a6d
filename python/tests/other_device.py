"""A device of torch that is not the CPU, on any machine: its tensors hold tensors of the CPU, and operations are done
on these. An operation that mixes its tensors with the CPU's is an error, as on a GPU."""

import functools

import torch
from torch._library.custom_ops import OPDEFS
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
_COPIES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")


class Elsewhere(torch.Tensor):
    @staticmethod
    def __new__(cls, held):
        options = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, device=torch.device(NAME, 0), **options)
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):  # torch has none for subclasses
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function.namespace == "isologit":
            return OPDEFS[function._schema.name]._init_fn(*args)
        name = function.overloadpacket._qualified_op_name
        kwargs = dict(kwargs or {})
        out = kwargs.get("out")
        stays_here = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")

        def held(x):
            if isinstance(x, Elsewhere):
                return x.held
            if isinstance(x, torch.Tensor) and x.dim() > 0 and name not in _COPIES:
                raise RuntimeError(f"{name}: a tensor of the CPU among those of another device")
            return x

        found = function(*tree_map(held, args), **tree_map(held, kwargs))
        if any(argument.alias_info and argument.alias_info.is_write for argument in function._schema.arguments):
            return args[0] if out is None else out
        wrap = (lambda x: x) if stays_here else (lambda x: Elsewhere(x) if isinstance(x, torch.Tensor) else x)
        return tree_map(wrap, found)


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return Elsewhere(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return Elsewhere(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source, to, non_blocking=False):
    source, held = (x.held if isinstance(x, Elsewhere) else x for x in (source, to))
    held.copy_(source)
    return to


@functools.cache
def device():
    """The device, which there is from the first call on."""
    _setup_privateuseone_for_python_backend(NAME)
    getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]
    device.library = torch.library.Library("aten", "IMPL")
    for name, made in (("empty.memory_format", _empty), ("empty_strided", _empty_strided), ("_copy_from", _copy_from)):
        device.library.impl(name, made, "PrivateUse1")
    return torch.device(NAME, 0)
