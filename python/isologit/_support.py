"""Which ids take part in a row: a mask, or lists of ids that are kept or banned."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from isologit import _inputs, _native
from isologit._inputs import Array


class SupportArgs(NamedTuple):
    """mask [1, V] or [N, V], or lists of ids; by default all ids."""

    mask: Array | None = None
    kept_offsets: Array | None = None
    kept_ids: Array | None = None
    banned_offsets: Array | None = None
    banned_ids: Array | None = None

    @classmethod
    def of(
        cls,
        hidden: Array,
        vocab_size: int,
        mask: Array | None,
        kept: Iterable[Sequence[int]] | None,
        banned: Iterable[Sequence[int]] | None,
    ) -> "SupportArgs":
        """Of hidden [..., H]."""
        if mask is not None and (kept is not None or banned is not None):
            raise ValueError("mask and lists of ids are given; expected one or the other")
        lead = tuple(hidden.shape[:-1])
        if mask is not None:
            _inputs.require_one_device(hidden=hidden, mask=mask)
            mask = mask if _inputs.is_tensor(mask) else np.asarray(mask)
            if _inputs.dtype_name(mask) != "bool" or tuple(mask.shape) not in ((vocab_size,), (*lead, vocab_size)):
                raise ValueError(
                    f"mask: {mask.dtype} {list(mask.shape)}; expected bool [{vocab_size}] or {[*lead, vocab_size]}, "
                    "True where an id stays"
                )
            mask = mask.reshape(-1, vocab_size) if mask.ndim == 1 else mask.reshape(math.prod(lead), vocab_size)
        lists = []
        for name, of_rows in (("kept", kept), ("banned", banned)):
            arrays = (None, None) if of_rows is None else _id_lists(of_rows, math.prod(lead), name)
            if _inputs.is_tensor(hidden) and of_rows is not None:
                arrays = (_inputs.beside(hidden, array) for array in arrays)
            lists.extend(arrays)
        return cls(mask, *lists)

    def set_support(self, request: Any) -> Array | None:
        """Returns the array that must outlive the call."""
        if self.kept_offsets is not None:
            request.kept = _native.IdLists(_inputs.pointer(self.kept_offsets), _inputs.pointer(self.kept_ids))
        if self.banned_offsets is not None:
            request.banned = _native.IdLists(_inputs.pointer(self.banned_offsets), _inputs.pointer(self.banned_ids))
        if self.mask is None:
            return None
        mask = self.mask if _inputs.rows_are_adjacent(self.mask) else _inputs.contiguous(self.mask)
        request.mask, request.mask_row_stride = _inputs.pointer(mask), _inputs.stride(mask) if mask.shape[0] > 1 else 0
        return mask


def _id_lists(lists: Iterable[Sequence[int]], rows: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """offsets and ids of one list of ids a row; each list sorted, each id once."""
    sorted_lists = [np.unique(_id_list(ids, f"{name}[{row}]")) for row, ids in enumerate(lists)]
    if len(sorted_lists) != rows:
        raise ValueError(f"{name}: {len(sorted_lists)} lists of ids; expected one for each of the {rows} rows")
    offsets = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum([len(ids) for ids in sorted_lists], out=offsets[1:])
    return offsets, np.concatenate([np.empty(0, dtype=np.int64), *sorted_lists])


def _id_list(ids: Any, name: str) -> np.ndarray:
    """One row's ids, of any type of integers, as int64."""
    _inputs.require_cpu(**{name: ids})
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"{name}: shape is {list(array.shape)}; expected a list of ids for each row")
    if array.size == 0:
        return array.astype(np.int64)  # an empty list has no type of its own
    _inputs.require_integers(array, name)
    return _inputs.as_int64(array, name)
