"""Samples from given logits, of numpy arrays and torch tensors alike: CONTRACT.md 3a and 4."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from isologit import _inputs, _native, _of_logits
from isologit._inputs import Array
from isologit._sample import Samples, set_draws


class SampleOfLogitsArgs(NamedTuple):
    """logits [N, V]; of the arrays below it [1] or [N]; seeds and sequence_ids are the bits of unsigned numbers."""

    logits: Array
    temperatures: Array
    seeds: Array
    sequence_ids: Array
    positions: Array
    min_p: Array
    top_k: Array
    top_p: Array
    threads: int
    processors: list[int]
    kernel: str

    @classmethod
    def of(cls, logits: Array, running: tuple[int, Any, str], **numbers: float | Array) -> "SampleOfLogitsArgs":
        _inputs.require_one_device(logits=logits)
        _inputs.dtype_code(logits, "logits")
        _of_logits.check_shape("logits", logits.shape)
        rows = logits.reshape(math.prod(logits.shape[:-1]), logits.shape[-1])
        rows = rows if _inputs.rows_are_adjacent(rows) else _inputs.contiguous(rows)
        arrays = (_numbers_of_rows(value, logits, name) for name, value in numbers.items())
        return cls(rows, *arrays, *_inputs.run_options(*running))

    def _request(self) -> tuple[_native.LogitsSampleRequest, Array]:
        """And what must outlive the call."""
        request = _native.LogitsSampleRequest(logits=_inputs.matrix(self.logits, "logits"))
        request.temperatures, request.temperature_count = _inputs.pointer(self.temperatures), len(self.temperatures)
        return request, set_draws(self, request)

    def _run(self, request: _native.LogitsSampleRequest) -> list[int]:
        return _native.sample_logits(request, _native.Running(self.threads, self.processors, self.kernel))

    def zeros(self) -> Samples:
        return Samples.zeros(self.logits)

    def draw(self) -> Samples:
        """isologit_sample_logits."""
        (request, keep_alive), results = self._request(), self.zeros()
        for name, result in zip(Samples._fields[:-1], results, strict=False):
            setattr(request, name, _inputs.pointer(result))
        _inputs.fill(results.counts, self._run(request))
        del keep_alive
        return results

    def mask_zeros(self) -> Array:
        return _inputs.zeros(self.logits, self.logits.shape, "bool")

    def cut_mask(self) -> Array:
        (request, keep_alive), mask = self._request(), self.mask_zeros()
        request.cut_mask = _inputs.pointer(mask)
        self._run(request)
        del keep_alive
        return mask


def _numbers_of_rows(value: float | Array, logits: Array, name: str) -> Array:
    if name in ("temperature", "min_p", "top_p"):
        return _inputs.per_row(value, logits, name)
    return _inputs.integers_per_row(value, logits, name, any_bits=name in ("seed", "sequence_id"))


def sample_of_logits(
    logits: Array,
    *,
    seed: int | Array,
    sequence_id: int | Array,
    position: int | Array,
    temperature: float | Array = 1.0,
    min_p: float | Array = 0.0,
    top_k: int | Array = 0,
    top_p: float | Array = 1.0,
    threads: int = 0,
    processors: Iterable[int] | None = None,
    kernel: str = "",
) -> Samples:
    """One token for each row of logits [..., V] in f32, bf16 or f16, as `sample` draws it.

    A mask is a logit of -inf; everything else is that of `sample`: the draw depends on its row, seed, sequence_id and
    position alone.
    """
    logits = _inputs.as_floats(logits, None)
    args = SampleOfLogitsArgs.of(
        logits,
        (threads, processors, kernel),
        temperature=temperature,
        seed=seed,
        sequence_id=sequence_id,
        position=position,
        min_p=min_p,
        top_k=top_k,
        top_p=top_p,
    )
    if _inputs.is_tensor(logits):
        from isologit import _torch

        results = _torch.sample_of_logits(args)
    else:
        results = args.draw()
    return Samples(*(result.reshape(logits.shape[:-1]) for result in results[:-1]), results.counts)


def cut_mask_of_logits(
    logits: Array,
    *,
    temperature: float | Array = 1.0,
    min_p: float | Array = 0.0,
    top_k: int | Array = 0,
    top_p: float | Array = 1.0,
    threads: int = 0,
    processors: Iterable[int] | None = None,
    kernel: str = "",
) -> Array:
    """[..., V] bool: True for the ids that `sample_of_logits` draws from. Of a row with a temperature of 0, and of one
    with NaN or +inf, these are all whose logit is above -inf, and the NaN."""
    logits = _inputs.as_floats(logits, None)
    args = SampleOfLogitsArgs.of(
        logits,
        (threads, processors, kernel),
        temperature=temperature,
        seed=0,
        sequence_id=0,
        position=0,
        min_p=min_p,
        top_k=top_k,
        top_p=top_p,
    )
    if _inputs.is_tensor(logits):
        from isologit import _torch

        mask = _torch.cut_mask_of_logits(args)
    else:
        mask = args.cut_mask()
    return mask.reshape(logits.shape)
