"""Scoring of numpy arrays."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from isologit import _native

_DTYPES = {"bfloat16": _native.BF16, "float16": _native.F16, "float32": _native.F32}

_FLOATS = ("logprobs", "lse", "entropy", "raw_logprobs", "sum_p2", "log_kept")
_INTEGERS = ("argmax", "rank")
_NEED_TOKEN_IDS = ("logprobs", "raw_logprobs", "rank")


class Scores(NamedTuple):
    """One element a row each, top_k_* with k more at the end; None where not asked for."""

    logprobs: np.ndarray | None = None
    lse: np.ndarray | None = None
    entropy: np.ndarray | None = None
    argmax: np.ndarray | None = None
    rank: np.ndarray | None = None
    raw_logprobs: np.ndarray | None = None
    sum_p2: np.ndarray | None = None
    log_kept: np.ndarray | None = None
    top_k_ids: np.ndarray | None = None
    top_k_logprobs: np.ndarray | None = None
    report: _native.Report | None = None


def _dtype_code(array: np.ndarray, dtype: str | None, name: str) -> int:
    if array.dtype.name == "uint16" and dtype is not None:
        if dtype != "bf16":
            raise ValueError(f"dtype is {dtype!r}; expected 'bf16', the only one that is given as uint16")
        return _native.BF16
    code = _DTYPES.get(array.dtype.name)
    if code is None or not array.dtype.isnative:
        raise ValueError(
            f"{name}: dtype is {array.dtype}; expected float32, float16, ml_dtypes.bfloat16, or uint16 "
            'together with dtype="bf16", in the machine\'s byte order'
        )
    return code


def _matrix(array: np.ndarray, dtype: str | None, name: str) -> _native.Matrix:
    code = _dtype_code(array, dtype, name)
    rows, cols = array.shape
    row_stride, col_stride = array.strides
    if (cols > 1 and col_stride != array.itemsize) or row_stride % array.itemsize != 0:
        raise ValueError(
            f"{name}: strides are {array.strides} bytes; expected elements of a row to be adjacent. It is "
            "read in place and not copied"
        )
    return _native.Matrix(array.ctypes.data, rows, cols, row_stride // array.itemsize, code)


def _rows(hidden: np.ndarray) -> np.ndarray:
    """[..., H] as [N, H]; copied when elements of a row are not adjacent."""
    rows = (
        hidden.reshape(-1, hidden.shape[-1])
        if hidden.size
        else hidden.reshape(int(np.prod(hidden.shape[:-1])), hidden.shape[-1])
    )
    if (rows.shape[1] > 1 and rows.strides[1] != rows.itemsize) or rows.strides[0] % rows.itemsize != 0:
        return np.ascontiguousarray(rows)
    return rows


def id_lists(lists: Iterable[Sequence[int]], rows: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """offsets and ids of one list of ids a row; each list sorted, each id once."""
    sorted_lists = [np.unique(np.asarray(ids, dtype=np.int64)) for ids in lists]
    if len(sorted_lists) != rows:
        raise ValueError(f"{name}: {len(sorted_lists)} lists of ids; expected one for each of the {rows} rows")
    offsets = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum([len(ids) for ids in sorted_lists], out=offsets[1:])
    ids = np.concatenate([np.empty(0, dtype=np.int64), *sorted_lists])
    return offsets, ids


def mask_lists(mask: np.ndarray, rows: int) -> tuple[str, np.ndarray, np.ndarray]:
    """A bool mask, [V] or [N, V], True where an id stays: "kept" or "banned", whichever is shorter, with its lists."""
    listed, which = (mask, "kept") if 2 * np.count_nonzero(mask) <= mask.size else (~mask, "banned")
    listed = np.atleast_2d(listed)
    offsets = np.zeros(rows + 1, dtype=np.int64)
    if listed.shape[0] == 1:
        ids = np.flatnonzero(listed)
        offsets[:] = np.arange(rows + 1) * len(ids)
        ids = np.tile(ids, rows)
    else:
        np.cumsum(np.count_nonzero(listed, axis=1), out=offsets[1:])
        ids = np.nonzero(listed)[1]
    return which, offsets, np.ascontiguousarray(ids, dtype=np.int64)


def _integers(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(f"{name}: dtype is {array.dtype}; expected integers")
    return np.ascontiguousarray(array, dtype=np.int64)


def _set_support(
    request: _native.ScoreRequest, lead: tuple[int, ...], vocab_size: int, mask: Any, kept: Any, banned: Any
) -> list[np.ndarray]:
    """Sets the lists of ids, and returns the arrays that must outlive the call."""
    rows = request.hidden.rows
    keep_alive: list[np.ndarray] = []

    def put(which: str, offsets: np.ndarray, ids: np.ndarray) -> None:
        keep_alive.extend((offsets, ids))
        setattr(request, which, _native.IdLists(offsets.ctypes.data, ids.ctypes.data))

    if mask is not None:
        if kept is not None or banned is not None:
            raise ValueError("mask and lists of ids are given; expected one or the other")
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape not in ((vocab_size,), (*lead, vocab_size)):
            raise ValueError(
                f"mask: {mask.dtype} {list(mask.shape)}; expected bool [{vocab_size}] or "
                f"{[*lead, vocab_size]}, True where an id stays"
            )
        put(*mask_lists(mask.reshape(-1, vocab_size), rows))
    if kept is not None:
        put("kept", *id_lists(kept, rows, "kept"))
    if banned is not None:
        put("banned", *id_lists(banned, rows, "banned"))
    return keep_alive


def score(
    hidden: np.ndarray,
    weight: np.ndarray,
    token_ids: Any = None,
    *,
    bias: np.ndarray | None = None,
    temperature: Any = 1.0,
    softcap: float | None = None,
    scale: float | None = None,
    divide: float | None = None,
    vocab_size: int | None = None,
    ignore_index: int = -100,
    mask: np.ndarray | None = None,
    kept: Iterable[Sequence[int]] | None = None,
    banned: Iterable[Sequence[int]] | None = None,
    outputs: Sequence[str] = ("logprobs",),
    top_k: int = 0,
    dtype: str | None = None,
    arithmetic: str = "exact",
    threads: int = 0,
    kernel: str = "",
) -> Scores:
    """What the head says of each row of hidden [..., H] under weight [V, H], as CONTRACT.md defines it.

    token_ids [...]: the id to score from each row; nothing is shifted. temperature: a number, or one a row. outputs:
    names of Scores. mask [V] or [..., V]: True where an id stays in the support; or kept and banned: a list of ids for
    each row. dtype="bf16": uint16 arrays hold bf16. threads 0: as many as the process may use. The weight is read in
    place.
    """
    hidden = np.asarray(hidden)
    weight = np.asarray(weight)
    if hidden.ndim < 1 or weight.ndim != 2:
        raise ValueError(
            f"hidden is {list(hidden.shape)}, weight is {list(weight.shape)}; expected [..., H] and [V, H]"
        )
    lead = hidden.shape[:-1]
    rows = _rows(hidden)
    bias_vector = None
    if bias is not None:
        bias = np.ascontiguousarray(bias)
        bias_vector = _native.Vector(bias.ctypes.data, bias.size, _dtype_code(bias, dtype, "bias"))
    head = _native.make_head(
        _matrix(weight, dtype, "weight"),
        bias_vector,
        vocab_size=vocab_size,
        softcap=softcap,
        scale=scale,
        divide=divide,
    )
    request = _native.ScoreRequest(hidden=_matrix(rows, dtype, "hidden"), has_ignore_index=1, ignore_index=ignore_index)

    if token_ids is not None:
        token_ids = _integers(token_ids, "token_ids")
        if token_ids.shape != lead:
            raise ValueError(
                f"token_ids: shape is {list(token_ids.shape)}; expected {list(lead)}, that of hidden without "
                "its last dimension"
            )
        request.token_ids = token_ids.ctypes.data
    temperatures = np.ascontiguousarray(temperature, dtype=np.float32)
    if temperatures.size != 1 and temperatures.shape != lead:
        raise ValueError(f"temperature: shape is {list(temperatures.shape)}; expected a number, or {list(lead)}")
    request.temperatures, request.temperature_count = temperatures.ctypes.data, temperatures.size
    keep_alive = _set_support(request, lead, head.vocab_size, mask, kept, banned)

    results: dict[str, np.ndarray] = {}
    for name in outputs:
        if name not in _FLOATS + _INTEGERS:
            raise ValueError(f"outputs: {name!r}; expected names of {', '.join(_FLOATS + _INTEGERS)}")
        if name in _NEED_TOKEN_IDS and token_ids is None:
            raise ValueError(f"outputs: {name!r} needs token_ids")
        results[name] = np.zeros(lead, dtype=np.float32 if name in _FLOATS else np.int64)
    if top_k:
        request.top_k = top_k
        for name, kind in (("top_k_ids", np.int64), ("top_k_logprobs", np.float32)):
            results[name] = np.zeros((*lead, max(top_k, 0)), dtype=kind)
    for name, array in results.items():
        setattr(request, name, array.ctypes.data)
    report = _native.score(head, request, arithmetic=arithmetic, threads=threads, kernel=kernel)
    del keep_alive
    return Scores(**results, report=report)
