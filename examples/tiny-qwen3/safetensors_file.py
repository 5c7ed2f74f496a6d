"""Safetensors files with numpy alone, which has no bfloat16: BF16 values are kept as their bits."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

ARRAY_TYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "I64": np.int64}


class Tensor(NamedTuple):
    dtype: str  # one of ARRAY_TYPES
    values: np.ndarray


def bf16(values: np.ndarray) -> Tensor:
    """f32 values rounded to nearest, ties to even."""
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    return Tensor("BF16", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))


def f32(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == "BF16":
        return (tensor.values.astype(np.uint32) << 16).view(np.float32)
    return tensor.values.astype(np.float32)


def create(path: Path, shapes: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, int]:
    """Make a file whose data are still zeros; the place in the file of each tensor."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begins, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        begins[name] = end
        end += math.prod(shape) * np.dtype(ARRAY_TYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begins[name], end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # data start at a multiple of 8
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        start = file.tell()
        file.truncate(start + end)
    return {name: start + begin for name, begin in begins.items()}


def put(path: Path, place: int, values: np.ndarray) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(values.tobytes())


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    places = create(path, {name: (t.dtype, t.values.shape) for name, t in tensors.items()})
    for name, place in places.items():
        put(path, place, tensors[name].values)


def read(path: Path) -> dict[str, Tensor]:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        data = content[start + begin : start + end]
        values = np.frombuffer(data, ARRAY_TYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = Tensor(entry["dtype"], values)
    return tensors
