"""What `isologit verify --device` has torch's devices compute: operations on the data that the command sends.

A request is a line of JSON, with the operation's numbers and which matrices follow, and then their bytes; the answer a
line of JSON that tells the results, and theirs. `cli/verify_device.cpp` is the other end.
"""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch
from torch import Tensor

import isologit
from isologit import _native, forward

_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
_NAMES = {**{dtype: name for name, dtype in _DTYPES.items()}, torch.int64: "i64"}
# NaN has no bits of its own in CONTRACT.md, and those of devices differ: here they are the library's.
_NAN_BITS = {torch.bfloat16: 0x7FC0, torch.float16: 0x7E00, torch.float32: 0x7FC00000}
_BITS = {2: torch.int16, 4: torch.int32}

Results = dict[str, Tensor]  # [rows, ...] or [rows]


def serve(name: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers until there are no more requests."""
    refused = _why_not(name)
    _write(answers, refused or {"title": _title(name)})
    while not refused and (line := requests.readline()):
        request = json.loads(line)
        matrices = [
            (name, dtype, rows, cols, requests.read(rows * cols * _DTYPES[dtype].itemsize))
            for name, dtype, rows, cols in request.pop("matrices")
        ]
        try:
            results = _run(name, request, matrices)
        except Exception as error:  # the command tells it as a result that is wrong
            told = " ".join(str(error).split())
            _write(answers, {"error": f"{type(error).__name__}: {told}"})
            continue
        told, parts = [], []
        for result, values in results.items():
            values = _canonical(values.detach().cpu())
            per_row = values.numel() // len(values)
            told.append([result, _NAMES[values.dtype], values.numel(), per_row])
            parts.append(values.view(torch.uint8).numpy().tobytes())
        _write(answers, {"results": told}, *parts)


def _write(answers: BinaryIO, line: dict[str, Any], *parts: bytes) -> None:
    answers.write(json.dumps(line).encode() + b"\n" + b"".join(parts))
    answers.flush()


def _why_not(name: str) -> dict[str, Any] | None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        known = ", ".join(device.device for device in isologit.devices())
        return {"error": f"--device: {name!r}: {str(error).splitlines()[0]}; there are {known}", "usage": True}
    try:
        torch.zeros(1, device=device).cpu()
        from isologit.torch_backend import self_test

        why_not = self_test.why_not(device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        why_not = str(error).splitlines()[0]
    if why_not:
        return {"error": f"--device: {name!r} is not usable: {why_not}"}
    return None


def _title(name: str) -> str:
    device = torch.device(name)
    if device.type == "cpu":
        return f"torch {torch.__version__} on the CPU"
    module = getattr(torch, device.type)
    told = module.get_device_name(device) if hasattr(module, "get_device_name") else str(device)
    return f"{told}, torch {torch.__version__}"


def _canonical(values: Tensor) -> Tensor:
    values = values.contiguous()
    if values.is_floating_point():
        values.view(_BITS[values.itemsize])[values.isnan()] = _NAN_BITS[values.dtype]
    return values


def _run(name: str, request: dict[str, Any], matrices: list[tuple[str, str, int, int, bytes]]) -> Results:
    device = torch.device(name)
    one = SimpleNamespace(**request, device=device)
    one.running = {"threads": one.threads, "kernel": _native.TORCH if device.type == "cpu" else ""}
    for matrix, dtype, rows, cols, data in matrices:
        values = torch.frombuffer(bytearray(data), dtype=_DTYPES[dtype]).reshape(rows, cols)
        setattr(one, matrix, values.to(device))
    return _OPERATIONS[request["operation"]](one)


# Of a head.


def _tensor(one: Any, numbers: list[Any], dtype: torch.dtype) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=one.device)


def _head(one: Any) -> dict[str, Any]:
    temperatures = _tensor(one, one.temperatures, torch.float32)
    return {"bias": one.bias[0], "temperature": temperatures, **one.transforms, **one.running}


def _support(one: Any) -> dict[str, Any]:
    if one.last_id < 0:
        return {}
    return {"mask": torch.arange(one.weight.shape[0], device=one.device) < one.last_id}


def _ids(one: Any) -> Tensor:
    return _tensor(one, one.token_ids, torch.int64)


def _logits(one: Any) -> Results:
    return {
        f"logits as {name}": isologit.logits(one.hidden, one.weight, dtype=dtype, **_head(one))
        for name, dtype in _DTYPES.items()
    }


def _score(one: Any) -> Results:
    outputs = ("logprobs", "raw_logprobs", "lse", "entropy", "sum_p2", "log_kept", "mean_logits", "argmax", "rank")
    options = {"outputs": outputs, "top_k": one.top_k_ids, **_head(one), **_support(one)}
    scores = isologit.score(one.hidden, one.weight, _ids(one), **options)
    return {name: getattr(scores, name) for name in (*outputs, "top_k_ids", "top_k_logprobs")}


def _sample(one: Any) -> Results:
    drawn = {"seed": one.seeds, "sequence_id": one.sequence_ids, "position": one.positions, "top_k": one.top_k}
    cut = {"min_p": one.min_p, "top_p": one.top_p}
    options = {name: _tensor(one, numbers, torch.int64) for name, numbers in drawn.items()}
    options |= {name: _tensor(one, numbers, torch.float32) for name, numbers in cut.items()}
    samples = isologit.sample(one.hidden, one.weight, **options, **_head(one), **_support(one))
    return {name: getattr(samples, name) for name in ("ids", "logprobs", "cut_logprobs", "log_kept_cut")}


def _gradients(one: Any) -> Results:
    # Of the same numbers in f32, since autograd rounds gradients to the type of what they are of.
    hidden, weight, bias = (x.float().requires_grad_() for x in (one.hidden, one.weight, one.bias[0]))
    options = {**_head(one), **_support(one), "bias": bias}
    outputs = ("logprobs", "lse", "entropy")
    scores = isologit.score(hidden, weight, _ids(one), outputs=outputs, gradients="exact", **options)
    upstream = [_tensor(one, getattr(one, f"d_{name}"), torch.float32) for name in outputs]
    made = torch.autograd.grad([getattr(scores, name) for name in outputs], [hidden, weight, bias], upstream)
    return dict(zip(("dhidden", "dweight", "dbias"), made, strict=True))


def _given_logits(one: Any) -> Results:
    logits = one.given.float().requires_grad_()  # as above
    options = {"temperature": _tensor(one, one.temperatures, torch.float32), **one.running}
    found = {
        "logprobs": isologit.logprobs_of_logits(logits, _ids(one), **options),
        "lse": isologit.lse_of_logits(logits, **options),
        "entropy": isologit.entropy_of_logits(logits, **options),
    }
    gradients = {}
    for name, values in found.items():
        upstream = _tensor(one, getattr(one, f"d_{name}"), torch.float32)
        gradients[f"dlogits of {name}"] = torch.autograd.grad(values, logits, upstream)[0]
    with torch.no_grad():  # of the logits in their own type
        found = {
            "logprobs": isologit.logprobs_of_logits(one.given, _ids(one), **options),
            "lse": isologit.lse_of_logits(one.given, **options),
            "entropy": isologit.entropy_of_logits(one.given, **options),
            "log_softmax": isologit.log_softmax(one.given, **options),
        }
    return found | gradients


# Of the forward pass.


def _heads_of(matrix: Tensor, heads: int) -> Tensor:
    return matrix.reshape(matrix.shape[0], heads, -1)


def _linear(one: Any) -> Results:
    return {"linear": forward.linear(one.x, one.projection, **one.running)}


def _norms(one: Any) -> Results:
    x, weight = _heads_of(one.x, one.heads), one.weight[0]
    return {
        "rms_norm": forward.rms_norm(x, weight, one.epsilon, **one.running),
        "rms_norm 1+w": forward.rms_norm(x, weight, one.epsilon, one_plus_weight=True, **one.running),
        "layer_norm": forward.layer_norm(x, weight, one.bias[0], one.epsilon, **one.running),
    }


def _residual(one: Any) -> Results:
    options = {"multiplier": one.multiplier, **one.running}
    return {
        "residual": forward.residual(one.x, one.a, **options),
        "residual of three": forward.residual(one.x, one.a, one.b, **options),
    }


def _gates(one: Any) -> Results:
    return {kind: forward.gate(one.x, one.a, kind=kind, **one.running) for kind in one.gates}


def _rotary(one: Any) -> Results:
    x, positions = _heads_of(one.x, one.heads), _tensor(one, one.positions, torch.int64)
    frequencies = forward.rotary_frequencies(one.theta, one.rotary_dim)
    options = {"factor": one.factor, **one.running}
    return {
        layout: forward.rotary(x, positions, frequencies, layout=layout, **options) for layout in ("halves", "pairs")
    }


def _operands_of_attention(one: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _heads_of(one.x, one.heads), _heads_of(one.keys, one.kv_heads), _heads_of(one.values, one.kv_heads)


def _attention(one: Any) -> Results:
    options = {name: torch.tensor(getattr(one, name)) for name in ("query_starts", "key_counts", "first_keys")}
    options |= {"scale": one.scale, **one.running}
    more = {"softcap": one.softcap, "window": one.window, "sinks": _tensor(one, one.sinks, torch.float32)}
    operands = _operands_of_attention(one)
    return {
        "causal": forward.attention(*operands, **options),
        "softcap, window, sinks": forward.attention(*operands, **options, **more),
    }


def _decode(one: Any) -> Results:
    """Causal attention token by token, each key a page of its own."""
    q, keys, values = _operands_of_attention(one)
    made = []
    for token in range(len(q)):
        sequence = next(s for s, end in enumerate(one.query_starts[1:]) if token < end)
        behind = one.query_starts[sequence + 1] - 1 - token
        options = {
            "query_starts": torch.tensor([0, 1]),
            "key_counts": torch.tensor([one.key_counts[sequence] - behind]),
            "block_table": torch.arange(one.first_keys[sequence], len(keys), dtype=torch.int32)[None],
        }
        pages = keys[:, None], values[:, None]
        made.append(forward.attention(q[token : token + 1], *pages, **options, scale=one.scale, **one.running))
    return {"causal": torch.cat(made)}


_OPERATIONS: dict[str, Callable[[Any], Results]] = {
    "logits": _logits,
    "score": _score,
    "sample": _sample,
    "gradients": _gradients,
    "given logits": _given_logits,
    "linear": _linear,
    "norms": _norms,
    "residual": _residual,
    "gates": _gates,
    "rotary": _rotary,
    "attention": _attention,
    "decode": _decode,
}
