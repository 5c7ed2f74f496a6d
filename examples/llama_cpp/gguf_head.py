"""The head of a GGUF file, read in place: the last product of a llama.cpp model, and what follows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader

_ELEMENTS = {
    GGMLQuantizationType.F32: np.float32,
    GGMLQuantizationType.F16: np.float16,
    GGMLQuantizationType.BF16: np.uint16,  # its bits, as numpy has no bfloat16
}


@dataclass(frozen=True)
class Head:
    name: str  # of its tensor
    weight: np.ndarray  # [V, H]; of bf16 the bits
    bias: np.ndarray | None
    softcap: float | None

    def arguments(self) -> dict[str, Any]:
        """What isologit's functions take after hidden; dtype says what uint16 holds."""
        return {"weight": self.weight, "bias": self.bias, "softcap": self.softcap, "dtype": "bf16"}


# [snippet: head
def read_head(path: str | Path) -> Head:
    reader = GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    name = next((name for name in ("output.weight", "token_embd.weight") if name in tensors), None)
    if name is None:
        raise ValueError(f"{path}: no output.weight and, for a tied head, no token_embd.weight; expected one of them")
    kind = tensors[name].tensor_type
    if kind not in _ELEMENTS:
        raise ValueError(
            f"{path}: {name} is {kind.name}; expected F32, F16 or BF16. Quantise the file with the head left out: "
            "llama-quantize --output-tensor-type BF16 (tied: --token-embedding-type BF16)"
        )
    weight = tensors[name].data
    weight = weight.reshape(weight.shape[0], -1).view(_ELEMENTS[kind])
    architecture = reader.get_field("general.architecture").contents()
    if (scale := reader.get_field(f"{architecture}.logit_scale")) is not None:
        raise ValueError(
            f"{path}: {architecture}.logit_scale is {scale.contents()}; expected none. Some models multiply by it and "
            "others divide: pass isologit `scale` or `divide` as yours does"
        )
    softcap = reader.get_field(f"{architecture}.final_logit_softcapping")
    bias = tensors["output.bias"].data if "output.bias" in tensors else None
    return Head(name, weight, bias, softcap.contents() if softcap is not None else None)
    # snippet]
