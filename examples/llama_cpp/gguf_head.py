"""The head of a GGUF file, read in place: the last product of a llama.cpp model, and what follows it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader

_ELEMENTS = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, "f64": np.float64}  # of bf16 the bits


@dataclass(frozen=True)
class Head:
    name: str  # of its tensor
    weight: np.ndarray  # [V, H]; of bf16 the bits
    bias: np.ndarray | None
    steps: dict[str, Any]  # what follows it, and how many of its rows are ids

    def arguments(self) -> dict[str, Any]:
        """What isologit's functions take after hidden; dtype says what uint16 holds."""
        return {"weight": self.weight, "bias": self.bias, "dtype": "bf16", **self.steps}


# [snippet: head
def read_head(path: str | Path) -> Head:
    """As isologit's command finds it, which knows what each architecture does to its logits and refuses others."""
    command = [sys.executable, "-m", "isologit", "info", str(path), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise ValueError(found.stderr.strip().removeprefix("isologit: "))
    head = json.loads(found.stdout)
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    weight = tensors[head["tensor"]].data
    weight = weight.reshape(weight.shape[0], -1).view(_ELEMENTS[head["dtype"]])
    bias = tensors[head["bias"]].data.view(_ELEMENTS[head["bias_dtype"]]) if head["bias"] else None
    after = head["transforms"]
    steps = {"softcap": after["softcap"], "scale": after["scale"], "divide": after["divisor"]}
    steps["transform_order"] = after["order"] or "softcap_first"
    return Head(head["tensor"], weight, bias, steps | {"vocab_size": head["vocab_size"]})
    # snippet]
