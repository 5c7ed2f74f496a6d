"""Logits themselves."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from isologit import _inputs, _native, _numbers
from isologit._docstrings import documented
from isologit._inputs import Array, HeadArgs, Lora


class LogitsArgs(NamedTuple):
    head: HeadArgs
    dtype: Any  # of torch or numpy

    @classmethod
    def of(cls, flat: Sequence[Any]) -> "LogitsArgs":
        size = len(HeadArgs._fields)
        return cls(HeadArgs(*flat[:size]), flat[size])

    def zeros(self) -> tuple[Array, Array]:
        """The logits [N, vocab_size], and what Report.of reads."""
        hidden, shape = self.head.hidden, (self.head.hidden.shape[0], self.head.vocab_size)
        tensor = _inputs.is_tensor(hidden)
        logits = hidden.new_empty(shape, dtype=self.dtype) if tensor else np.empty(shape, self.dtype)
        return logits, _inputs.zeros(hidden, (len(_native.Report._fields),), "int64")


def run(args: LogitsArgs) -> tuple[Array, Array]:
    """isologit_score, for logits alone."""
    head, (logits, counts) = args.head.native(), args.zeros()
    request = _native.ScoreRequest(
        logits=_inputs.pointer(logits),
        logits_dtype=_inputs.dtype_code(_inputs.as_floats(logits, "bf16"), "logits"),
        logits_row_stride=args.head.vocab_size,
        logits_count=args.head.vocab_size,
    )
    args.head.set_rows(request)
    _inputs.fill(counts, _native.score(head, request, **args.head.options()))
    return logits, counts


def _result_dtype(hidden: Array, dtype: Any) -> Any:
    if _inputs.is_tensor(hidden):
        return sys.modules["torch"].float32 if dtype is None else dtype
    return np.dtype(np.float32 if dtype is None else dtype)


@documented
def logits(
    hidden: Array,
    weight: Array,
    *,
    bias: Array | None = None,
    temperature: float | Array = 1.0,
    softcap: float | None = None,
    scale: float | None = None,
    divide: float | None = None,
    transform_order: str = "softcap_first",
    vocab_size: int | None = None,
    lora: Lora | None = None,
    dtype: Any = None,
    arithmetic: str = "exact",
    gradients: str = "fast",
    dweight_accumulate: Any = None,
    threads: int = 0,
    processors: Iterable[int] | None = None,
    kernel: str = "",
    input_dtype: str | None = None,
    return_report: bool = False,
) -> Array | tuple[Array, _native.Report]:
    """The logits of a language model's head.

    z_v = sum over k of hidden_k weight_vk, + bias_v: the real number, rounded once. Softcap, scale or divide, and
    temperature follow, each one rounding of the exact function of the f32 value before it. The last of these steps that
    changes anything is rounded to `dtype`, once; those before it to f32.

    Parameters
    ----------
    <inputs>
    <head>
    dtype : type of torch or numpy, default float32
        Of the result: float32, float16 or bfloat16 of torch, of numpy or of ml_dtypes; numpy.uint16 for the bits of
        bf16.
    <run>
    <gradients>
    <threads>
    input_dtype : {"bf16"}, optional
        What uint16 arrays of numpy hold.
    return_report : bool, default False
        Whether to return the Report of the call as well.

    Returns
    -------
    numpy.ndarray or torch.Tensor, [..., vocab_size]
        Of the kind of hidden. With return_report a pair of this and the Report, which names the kernel and the
        arithmetic that made it.

    <raises>

    Notes
    -----
    Differentiable in hidden, weight, bias and the factors of lora: dz_v is the upstream gradient; then the slopes of
    the transforms.

    Tensors on other devices than the CPU go to the torch backend, with the same bits (docs/devices.md). Those on CUDA
    go to libisologit_cuda.so where that lies in the package's folder, but for results in bf16 and f16 after transforms
    or with a report, and for gradients. Without transforms, a report and gradients, and outside of graphs of
    torch.compile, it waits for nothing.
    """
    hidden = _inputs.as_floats(hidden, input_dtype)
    if _inputs.is_tensor(hidden) and hidden.is_cuda and not _inputs.is_f8(weight) and not _numbers.traced():
        from isologit._torch import cuda

        asked = {"temperature": temperature, "softcap": softcap, "scale": scale, "divide": divide, "lora": lora}
        asked |= {"dtype": dtype, "arithmetic": arithmetic, "kernel": kernel, "return_report": return_report}
        if cuda.makes(hidden, weight, bias, **asked, dweight_accumulate=dweight_accumulate):
            return cuda.logits(hidden, weight, bias, vocab_size, dtype, arithmetic)
    head = HeadArgs.of(
        hidden,
        weight,
        bias=bias,
        temperature=temperature,
        softcap=softcap,
        scale=scale,
        divide=divide,
        transform_order=transform_order,
        vocab_size=vocab_size,
        lora=lora,
        arithmetic=arithmetic,
        threads=threads,
        processors=processors,
        kernel=kernel,
        dtype=input_dtype,
    )
    if head.by_operator():
        from isologit import _torch

        result, counts = _torch.logits(head, dtype, gradients, dweight_accumulate)
    elif head.differentiates_f8():
        from isologit._torch import f8

        _inputs.refuse_gradients(dweight_accumulate)
        result, counts = f8.logits(LogitsArgs(head, _result_dtype(hidden, dtype)), gradients)
    else:
        _inputs.refuse_gradients(dweight_accumulate)
        result, counts = run(LogitsArgs(head, _result_dtype(hidden, dtype)))
    result = result.reshape(*hidden.shape[:-1], head.vocab_size)
    return (result, _native.Report.of(counts)) if return_report else result
