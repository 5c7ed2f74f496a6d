"""Products of matrices whose rows are all summed in one order, whatever stands beside them.

A vendor chooses its order of sums by the shape, and by the layout in memory. So products are made of one shape, of
contiguous operands, many at a time, and what is missing is filled up with zeros; and each shape is looked at once:
equal rows must give equal bits, in every place.
"""

import functools

import torch
from torch import Tensor

_TOGETHER = 16


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """[n, r, c] of left [n, r, k] and right [n, k, c], f64. The bits of a row depend on it, on its `right`, on r, k and
    c."""
    count, rows, size = left.shape
    left, right = left.contiguous(), right.contiguous()  # padding by nothing would keep another layout
    if not _summed_alike(left.device, rows, size, right.shape[2]):
        return torch.stack([torch.cat([row[None] @ b for row in a]) for a, b in zip(left, right, strict=True)])
    missing = -count % _TOGETHER
    left, right = (torch.nn.functional.pad(x, (0, 0, 0, 0, 0, missing)) for x in (left, right))
    found = [torch.bmm(left[i : i + _TOGETHER], right[i : i + _TOGETHER]) for i in range(0, len(left), _TOGETHER)]
    return torch.cat(found)[:count]


@functools.cache
def _summed_alike(device: torch.device, rows: int, size: int, columns: int) -> bool:
    generator = torch.Generator().manual_seed(1)
    shapes = ((1, size), (size, columns))
    row, right = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    left = row.to(device).expand(_TOGETHER, rows, size).contiguous()
    found = torch.bmm(left, right.to(device).expand(_TOGETHER, size, columns).contiguous())
    return bool((found == found[:1, :1]).all())
