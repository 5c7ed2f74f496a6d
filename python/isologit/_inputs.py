"""What callers give, numpy arrays or torch tensors of any shape: as rows and vectors, and as the library's own.

The functions take either kind, and answer in it. Those that tensors pass on their way to an operator are traced by
torch.compile.
"""

import math
import operator
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from isologit import _native, _numbers

Array = Any  # numpy.ndarray or torch.Tensor
Lora = tuple[Array, Array, float]  # a [r, H], b [V, r], scale

MOST_THREADS = 1024
_BF16_BITS = np.dtype([("bf16", np.uint16)])  # how uint16 arrays with dtype="bf16" are marked
_DTYPE_CODES = {
    "bfloat16": _native.BF16,
    str(_BF16_BITS): _native.BF16,
    "float16": _native.F16,
    "float32": _native.F32,
}


def is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_array(value: Any) -> bool:
    return is_tensor(value) or isinstance(value, np.ndarray)


def is_f8(weight: Any) -> bool:
    f8 = sys.modules.get("isologit._f8")
    return f8 is not None and isinstance(weight, f8.F8Weight)


def wants_gradient(*tensors: Any) -> bool:
    """Whether autograd wants one of what is made of these tensors; None is none of them."""
    required = any(tensor is not None and tensor.requires_grad for tensor in tensors)
    return required and sys.modules["torch"].is_grad_enabled()


def dtype_name(array: Array) -> str:
    return str(array.dtype).removeprefix("torch.")


def dtype_code(array: Array, name: str) -> int:
    code = _DTYPE_CODES.get(dtype_name(array))
    if code is None and name == "weight" and "float8" in dtype_name(array):
        raise ValueError(f"weight: dtype is {array.dtype}; expected isologit.F8Weight(weight, scale): f8 has scales")
    if code is None:
        expected = "torch.bfloat16, torch.float16 or torch.float32"
        if not is_tensor(array):
            expected = "float32, float16, ml_dtypes.bfloat16, or uint16 with dtype='bf16', in native byte order"
        raise ValueError(f"{name}: dtype is {array.dtype}; expected {expected}")
    return code


def pointer(array: Array) -> int:
    return array.data_ptr() if is_tensor(array) else array.ctypes.data


def stride(array: Array) -> int:
    """From one row to the next, in elements."""
    return array.stride(0) if is_tensor(array) else array.strides[0] // array.itemsize


def zeros(like: Array, shape: Sequence[int], dtype: str) -> Array:
    if is_tensor(like):
        return like.new_zeros(tuple(shape), dtype=getattr(sys.modules["torch"], dtype))
    return np.zeros(tuple(shape), dtype)


def fill(array: Array, numbers: Sequence[int]) -> None:
    array[:] = sys.modules["torch"].tensor(numbers) if is_tensor(array) else numbers


def rows_are_adjacent(array: Array) -> bool:
    """Whether the library can read it in place: elements of a row are adjacent."""
    if is_tensor(array):
        return array.shape[-1] <= 1 or array.stride(-1) == 1
    size = array.itemsize
    adjacent = array.shape[-1] <= 1 or array.strides[-1] == size
    return array.size == 0 or (adjacent and all(step % size == 0 for step in array.strides))


def require_cpu(**tensors: Any) -> None:
    for name, tensor in tensors.items():
        if not is_tensor(tensor) or tensor.device.type == "cpu":
            continue
        meta = tensor.device.type == "meta"
        what = "a meta tensor has no values" if meta else f"pass {name}.cpu()"
        raise NotImplementedError(f"{name} is on {tensor.device}; isologit computes this on the CPU only: {what}")


def require_one_device(**tensors: Any) -> None:
    """Any device, and the same one, as the operators run where their tensors are; and dense, so that they have rows."""
    first = None
    for name, tensor in tensors.items():
        if not is_tensor(tensor):
            continue
        if tensor.device.type == "meta":
            raise NotImplementedError(f"{name} is on meta; a meta tensor has no values")
        if tensor.is_nested or tensor.layout != sys.modules["torch"].strided:
            kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
            raise ValueError(f"{name}: its layout is {kind}; expected a dense tensor")
        if first is not None and tensor.device != tensors[first].device:
            raise ValueError(
                f"{name} is on {tensor.device}, and {first} on {tensors[first].device}; expected one device"
            )
        first = first or name


def beside(hidden: Array, value: Any) -> Array:
    """A number or a list as a tensor on the device of hidden, or as an array."""
    if is_tensor(hidden):
        return sys.modules["torch"].as_tensor(value, device=hidden.device)
    return np.asarray(value)


def refuse_tangents(**tensors: Any) -> None:
    """What forward-mode differentiation has attached to a tensor would be lost without a word."""
    forward_ad = sys.modules.get("torch.autograd.forward_ad")
    if forward_ad is None or _numbers.traced():
        return
    for name, tensor in tensors.items():
        if is_tensor(tensor) and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                f"{name} has a tangent of forward-mode differentiation, which isologit does not have: expected reverse "
                f"mode, or {name}.detach()"
            )


def as_floats(array: Any, dtype: str | None) -> Array:
    """An array or a tensor; uint16 arrays are marked as bf16 when dtype says that they are."""
    if is_tensor(array):
        return array
    array = np.asarray(array)
    if array.dtype == np.uint16 and dtype is not None:
        if dtype != "bf16":
            raise ValueError(f"dtype is {dtype!r}; expected 'bf16', the only one that is given as uint16")
        array = array.view(_BF16_BITS)
    return array


def _require_one_kind(**arrays: Array | None) -> None:
    tensors = {name: is_tensor(array) for name, array in arrays.items() if array is not None}
    if len(set(tensors.values())) > 1:
        told = ", ".join(f"{name} is {'a tensor' if tensor else 'an array'}" for name, tensor in tensors.items())
        raise TypeError(f"{told}; expected numpy arrays or torch tensors, not both")


def matrix(array: Array, name: str) -> _native.Matrix:
    return _native.Matrix(pointer(array), *array.shape, stride(array), dtype_code(array, name))


class HeadArgs(NamedTuple):
    """hidden [N, H], weight [V, H], temperatures [1] or [N]; of a low-rank addition a [r, H] and b [V, r]. The defaults
    are a head without transforms and addition, for the best kernel. Without a weight hidden are the logits themselves,
    before any transform."""

    hidden: Array
    weight: Array | None
    bias: Array | None
    temperatures: Array
    vocab_size: int
    softcap: float | None = None
    scale: float | None = None
    divide: float | None = None
    transform_order: str = "softcap_first"
    arithmetic: str = "exact"
    threads: int = 0
    processors: Sequence[int] = ()
    kernel: str = ""
    lora_a: Array | None = None
    lora_b: Array | None = None
    lora_scale: float = 0.0

    @classmethod
    def of(
        cls,
        hidden: Array,
        weight: Array,
        *,
        bias: Array | None,
        temperature: float | Array,
        softcap: float | None,
        scale: float | None,
        divide: float | None,
        transform_order: str,
        vocab_size: int | None,
        arithmetic: str,
        threads: int,
        processors: Iterable[int] | None,
        kernel: str,
        dtype: str | None = None,
        lora: Lora | None = None,
    ) -> "HeadArgs":
        """Of hidden [..., H], which as_floats has seen."""
        require_one_device(hidden=hidden)
        if hidden.ndim < 1:
            raise ValueError("hidden is []; expected [..., H]")
        rows = hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1])
        rows = rows if rows_are_adjacent(rows) else contiguous(rows)
        temperatures = per_row(temperature, hidden, "temperature")
        transforms = (softcap, scale, divide, transform_order)
        options = _checked_options(*transforms, arithmetic, threads, processors, kernel)
        head = cls(hidden, hidden, None, temperatures, 0, *options)
        return head.with_weight(weight, bias, vocab_size, dtype, lora)._replace(hidden=rows)

    def with_weight(
        self, weight: Array, bias: Array | None, vocab_size: int | None, dtype: str | None, lora: Lora | None
    ) -> "HeadArgs":
        """The same with another weight."""
        require_one_device(hidden=self.hidden, weight=weight, bias=bias)
        refuse_tangents(hidden=self.hidden, weight=weight, bias=bias)
        bias = None if bias is None else as_floats(bias, dtype)
        if is_f8(weight):
            _require_one_kind(hidden=self.hidden, weight=weight.values, scale=weight.scale, bias=bias)
            weight.refuse_graphs()
        else:
            weight = as_floats(weight, dtype)
            _require_one_kind(hidden=self.hidden, weight=weight, bias=bias)
        if weight.ndim != 2 or self.hidden.shape[-1] != weight.shape[1]:
            raise ValueError(
                f"hidden is {list(self.hidden.shape)}, weight is {list(weight.shape)}; expected [..., H] and [V, H]"
            )
        if bias is not None and bias.ndim != 1:
            raise ValueError(f"bias: shape is {list(bias.shape)}; expected [V]")
        bias = None if bias is None else contiguous(bias)
        size = weight.shape[0] if vocab_size is None else _numbers.integer(vocab_size, "vocab_size")
        return self._replace(weight=weight, bias=bias, vocab_size=size)._with_lora(lora, dtype)

    def _with_lora(self, lora: Lora | None, dtype: str | None) -> "HeadArgs":
        if lora is None:
            return self._replace(lora_a=None, lora_b=None, lora_scale=0.0)
        if not isinstance(lora, (tuple, list)) or len(lora) != 3:
            raise ValueError(f"lora is a {type(lora).__name__}; expected (a, b, scale): a [r, H], b [V, r], a number")
        a, b = (as_floats(factor, dtype) for factor in lora[:2])
        require_cpu(**{"lora a": a, "lora b": b})
        refuse_tangents(**{"lora a": a, "lora b": b})
        _require_one_kind(**{"hidden": self.hidden, "lora a": a, "lora b": b})
        (vocab, size), shapes = self.weight.shape, [list(a.shape), list(b.shape)]
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != size or b.shape[0] != vocab or a.shape[0] != b.shape[1]:
            raise ValueError(f"lora: a is {shapes[0]} and b is {shapes[1]}; expected [r, {size}] and [{vocab}, r]")
        a, b = (factor if rows_are_adjacent(factor) else contiguous(factor) for factor in (a, b))
        scale = lora[2] if _numbers.traced() else _numbers.f64(lora[2], "lora scale")
        return self._replace(lora_a=a, lora_b=b, lora_scale=scale)

    def options(self, peers: _native.PeersCalls | None = None) -> dict[str, Any]:
        running = _native.Running(self.threads, self.processors, self.kernel, peers)
        return {"arithmetic": self.arithmetic, "running": running}

    def native(self) -> _native.Head:
        transforms = (self.softcap, self.scale, self.divide, self.transform_order)
        if self.weight is None:
            return native_head(_native.Matrix(), None, self.vocab_size, *transforms)
        f8 = self.weight if is_f8(self.weight) else None
        weight = self.weight if f8 is None else f8.values
        require_cpu(hidden=self.hidden, weight=weight, bias=self.bias)
        if not rows_are_adjacent(weight):
            strides = f"{list(weight.stride())}" if is_tensor(weight) else f"{weight.strides} bytes"
            raise ValueError(
                f"weight: strides are {strides}; expected elements of a row to be adjacent, a last stride of 1. The "
                "weight is read in place and not copied: store it as [V, H] row by row"
            )
        if f8 is None and dtype_name(weight) != "float64":
            head = native_head(matrix(weight, "weight"), self.bias, self.vocab_size, *transforms)
        else:
            view = _native.Matrix(None, *weight.shape, stride(weight), _native.F32)
            head = native_head(view, self.bias, self.vocab_size, *transforms)
            head.encoded, head.encoding = pointer(weight), _native.F64 if f8 is None else f8.encoding
        if f8 is not None:
            f8.set_scales(head)
        if self.lora_a is not None:
            require_cpu(**{"lora a": self.lora_a, "lora b": self.lora_b})
            head.lora = _native.Lora(matrix(self.lora_a, "lora a"), matrix(self.lora_b, "lora b"), self.lora_scale)
        return head

    def by_operator(self) -> bool:
        """Whether the call goes through one of torch's operators, with autograd and torch.compile."""
        return is_tensor(self.hidden) and not is_f8(self.weight)

    def differentiates_f8(self) -> bool:
        """Whether autograd wants something through a weight that no operator takes."""
        return (
            is_f8(self.weight)
            and is_tensor(self.hidden)
            and wants_gradient(self.hidden, self.bias, self.lora_a, self.lora_b)
        )

    def set_rows(self, request: Any) -> None:
        request.hidden = matrix(self.hidden, "hidden")
        request.temperatures, request.temperature_count = pointer(self.temperatures), self.temperatures.shape[0]


def processor_numbers(processors: Iterable[int] | None) -> list[int]:
    """None: no numbers, for those of the calling thread."""
    if processors is None:
        return []
    numbers = [operator.index(processor) for processor in processors]
    if not numbers or not all(0 <= number < 2**20 for number in numbers):
        raise ValueError(
            f"processors: {numbers}; expected at least one processor's number, from 0 on, or None for those that the "
            "calling thread may run on"
        )
    return numbers


def native_head(
    weight: _native.Matrix,
    bias: Array | None,
    vocab_size: int,
    softcap: float | None,
    scale: float | None,
    divide: float | None,
    transform_order: str,
) -> _native.Head:
    if scale is not None and divide is not None:
        raise ValueError(f"scale is {scale} and divide is {divide}; expected at most one of them")
    order = _native.transform_order_code(transform_order)
    head = _native.Head(weight=weight, vocab_size=vocab_size, transform_order=order)
    if bias is not None:
        head.bias = _native.Vector(pointer(bias), bias.shape[0], dtype_code(bias, "bias"))
    with _numbers.usual_rounding():
        if softcap is not None:
            head.has_softcap, head.softcap = 1, softcap
        if scale is not None:
            head.scale_kind, head.scale = _native.SCALE_MULTIPLY, scale
        if divide is not None:
            head.scale_kind, head.scale = _native.SCALE_DIVIDE, divide
    return head


def _checked_options(
    softcap: Any,
    scale: Any,
    divide: Any,
    transform_order: str,
    arithmetic: str,
    threads: Any,
    processors: Any,
    kernel: Any,
) -> tuple[Any, ...]:
    if _numbers.traced():
        return softcap, scale, divide, transform_order, arithmetic, threads, list(processors or []), kernel
    named = {"softcap": softcap, "scale": scale, "divide": divide}
    factors = (None if value is None else _numbers.f32(value, name) for name, value in named.items())
    softcap, scale, divide = factors
    if divide is not None and divide <= 0:
        raise ValueError(f"divide: {divide}; expected a finite number above 0")
    return softcap, scale, divide, transform_order, arithmetic, *run_options(threads, processors, kernel)


def run_options(threads: Any, processors: Any, kernel: Any) -> tuple[int, list[int], str]:
    if not isinstance(kernel, str):
        raise ValueError(f"kernel: {kernel!r}; expected the name of a kernel, or '' for the best")
    return _numbers.integer(threads, "threads", 0, MOST_THREADS), processor_numbers(processors), kernel


def contiguous(array: Array) -> Array:
    return array.contiguous() if is_tensor(array) else np.ascontiguousarray(array)


def require_integers(array: Array, name: str) -> None:
    whole = dtype_name(array) in ("int64", "int32", "uint64") if is_tensor(array) else array.dtype.kind in "iu"
    if not whole:
        expected = "torch.int64" if is_tensor(array) else "integers"
        raise ValueError(f"{name}: dtype is {array.dtype}; expected {expected}")


def _require_real(array: Array, name: str) -> None:
    if is_tensor(array):
        real = not array.is_complex() and dtype_name(array) != "bool"
    else:
        real = array.dtype.kind in "iuf" or dtype_name(array) == "bfloat16"
    if not real:
        raise ValueError(f"{name}: dtype is {array.dtype}; expected numbers")


def as_int64(values: Array, name: str) -> Array:
    """Integers of any type; those of uint64 that int64 does not have are an error."""
    if dtype_name(values) != "uint64":
        return values
    bits = values.view(sys.modules["torch"].int64) if is_tensor(values) else values.view(np.int64)
    if not _numbers.traced() and (bits < 0).any():
        wrong = int(bits[bits < 0].reshape(-1)[0]) + 2**64
        raise ValueError(f"{name}: {wrong}; expected integers below 2^63")
    return bits


def _bits(values: Array, _: str) -> Array:
    """Integers of 64 bits, signed or not, as their bits."""
    if dtype_name(values) != "uint64":
        return values
    return values.view(sys.modules["torch"].int64) if is_tensor(values) else values.view(np.int64)


def _flat(values: Array, dtype: str) -> Array:
    """As a contiguous vector of that type."""
    values = values.reshape(-1)
    if is_tensor(values):
        return values.detach().to(getattr(sys.modules["torch"], dtype)).contiguous()
    with np.errstate(over="ignore"):  # the library refuses the infinity
        return np.ascontiguousarray(values, dtype)


def per_row(value: Any, hidden: Array, name: str) -> Array:
    """One f32 number for all rows, [1], or one for each, [N], of hidden [..., H]."""
    if _numbers.traced():
        return _per_row(value, hidden, "float32", name)
    if not _is_array(value) and not isinstance(value, (list, tuple)):
        value = _numbers.f32(value, name)
    with _numbers.usual_rounding():
        return _per_row(value, hidden, "float32", name)


def integers_per_row(value: Any, hidden: Array, name: str, any_bits: bool = False) -> Array:
    """One int64 for all rows, [1], or one for each, [N], of hidden [..., H]; any_bits: or the bits of a uint64."""
    of_64_bits = _bits if any_bits else as_int64
    if isinstance(value, (list, tuple)):
        value = beside(hidden, value)
    if not _is_array(value):
        most = 2**64 - 1 if any_bits else 2**63 - 1
        value = _numbers.integer(value, name, -(2**63), most)
        return _per_row(value - 2**64 if value >= 2**63 else value, hidden, "int64", name)
    require_integers(value, name)
    return _per_row(of_64_bits(value, name), hidden, "int64", name)


def _per_row(value: Any, hidden: Array, dtype: str, name: str) -> Array:
    lead = tuple(hidden.shape[:-1])
    if isinstance(value, (list, tuple)):
        value = beside(hidden, value)
    if not _is_array(value):
        if is_tensor(hidden):
            return hidden.new_full((1,), value, dtype=getattr(sys.modules["torch"], dtype))
        return np.full((1,), value, dtype)
    if is_tensor(hidden) and is_tensor(value) and value.ndim == 0 and value.device.type == "cpu":
        value = value.to(hidden.device)  # a number, as torch's own functions see it
    require_one_device(hidden=hidden, **{name: value})
    _require_real(value, name)
    if value.ndim > 0 and tuple(value.shape) != lead:
        raise ValueError(f"{name}: shape is {list(value.shape)}; expected a number, or {list(lead)}: one for each row")
    return _flat(value, dtype)


def token_ids_of(token_ids: Any, hidden: Array, name: str = "token_ids") -> Array:
    """[...] or [..., K] of the rows of hidden [..., H], as [N] or [N, K]."""
    if not _is_array(token_ids):
        token_ids = beside(hidden, token_ids)
    require_one_device(hidden=hidden, **{name: token_ids})
    lead = tuple(hidden.shape[:-1])
    if not is_tensor(token_ids) and not token_ids.size:
        token_ids = token_ids.astype(np.int64)  # an empty list has no type of its own
    require_integers(token_ids, name)
    token_ids = as_int64(token_ids, name)
    shape = tuple(token_ids.shape)
    if shape != lead and shape[:-1] != lead:
        raise ValueError(
            f"{name}: shape is {list(shape)}; expected {list(lead)}, one id a row, or with one dimension more at the "
            "end, K ids a row"
        )
    flat = _flat(token_ids, "int64")
    return flat if shape == lead else flat.reshape(math.prod(lead), shape[-1])


def refuse_gradients(dweight_accumulate: Any) -> None:
    if dweight_accumulate is not None:
        raise TypeError(
            "dweight_accumulate is given; expected None beside numpy arrays, which have no gradients, and an F8Weight, "
            "which is frozen"
        )
