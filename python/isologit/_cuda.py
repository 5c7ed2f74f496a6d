"""isologit/cuda.h by ctypes, for torch tensors on CUDA devices.

Needs nothing else of the package but the files beside it that begin likewise, so that scripts/gpu_check runs it where
only the CUDA library is. Work goes to the current stream of the tensors' device and memory comes from torch's
allocator, so that calls can be captured into CUDA graphs; the first call on each device runs the self-test, which waits
for the device.
"""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_size_t
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

# By their places: gpu_check has these files alone.
from ._cuda_forward import Operators
from ._cuda_operands import adjacent, dtype_code, matrix, pointer, vector
from ._cuda_structures import (
    AttentionRequest,
    BackwardRequest,
    GateRequest,
    GivenRequest,
    Gradient,
    IdLists,
    LogitsRequest,
    ResidualRequest,
    RmsNormRequest,
    RotaryRequest,
    SampleRequest,
    ScoreRequest,
)

_ERRORS: dict[int, type[Exception]] = {1: ValueError, 2: NotImplementedError, 5: torch.OutOfMemoryError}
MOST_IDS, MOST_COLUMNS = 4096, 1 << 20  # of a row
MOST_FEATURES = 65535 * 64  # rows of a weight
MOST_HEAD = 256  # elements of a key or value
PIECE = 1024  # elements of a row that count as a row, of which there may be 2^31 - 1
OF_IDS = ("logprobs", "chosen_logits", "rank")
SCORES = (*OF_IDS, "lse", "entropy", "sum_p2", "argmax", "log_kept")
SAMPLES = ("ids", "logprobs", "cut_logprobs", "log_kept_cut")
_INTEGERS = ("argmax", "rank", "top_k_ids")
# The last two with ISOLOGIT_CUDA_WGMMA, for scripts/gpu_check alone.
_ARITHMETICS = ("exact", "fast", "exact_wgmma", "fast_wgmma")


class Head(NamedTuple):
    """Operands on one device: hidden [N, H], weight [V, H], bias [V], temperatures f32 [1] or [N]."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    vocab_size: int | None = None
    temperatures: Tensor | None = None
    softcap: float | None = None
    scale: float | None = None
    divide: float | None = None
    scale_first: bool = False
    arithmetic: str = "exact"

    def checked(self, token_ids: Tensor | None = None) -> "Head":
        """With rows whose elements are adjacent; an error for what no request says."""
        operands = {"weight": self.weight, "token_ids": token_ids, "bias": self.bias}
        operands["temperatures"] = self.temperatures
        for name, tensor in operands.items():
            if tensor is not None and tensor.device != self.hidden.device:
                raise ValueError(
                    f"{name} is on {tensor.device} and hidden on {self.hidden.device}; expected one device"
                )
        for name, dtype in (("token_ids", torch.int64), ("temperatures", torch.float32)):
            tensor = operands[name]
            if tensor is not None and tensor.dtype != dtype:
                raise ValueError(f"{name} is of {tensor.dtype}; expected {dtype}")
        rows = self.hidden.shape[0]
        if token_ids is not None and (token_ids.dim() != 2 or token_ids.shape[0] != rows):
            raise ValueError(f"token_ids has shape {list(token_ids.shape)}; expected [{rows}, K]")
        if self.scale is not None and self.divide is not None:
            raise ValueError("scale and divide are both given; expected one of them")
        bias, temperatures = (None if x is None else x.contiguous() for x in (self.bias, self.temperatures))
        vocab_size = self.weight.shape[0] if self.vocab_size is None else self.vocab_size
        given = {"bias": bias, "temperatures": temperatures, "vocab_size": vocab_size}
        return self._replace(hidden=adjacent(self.hidden), weight=adjacent(self.weight), **given)

    def fields(self) -> dict[str, Any]:
        """Of a request; this Head must outlive its call."""
        device, bias, temperatures = self.hidden.get_device(), self.bias, self.temperatures
        return {
            "device": device,
            "stream": torch.cuda.current_stream(device).cuda_stream,
            "hidden": matrix("hidden", self.hidden),
            "weight": matrix("weight", self.weight),
            "bias": vector("bias", bias),
            "vocab_size": self.vocab_size,
            "arithmetic": _ARITHMETICS.index(self.arithmetic),
            "has_softcap": self.softcap is not None,
            "softcap": self.softcap or 0.0,
            "scale_kind": 1 if self.scale is not None else 2 if self.divide is not None else 0,
            "scale": self.scale if self.scale is not None else self.divide if self.divide is not None else 1.0,
            "transform_order": int(self.scale_first),
            "temperatures": pointer(temperatures),
            "temperature_count": 0 if temperatures is None else temperatures.numel(),
        }


class Support(NamedTuple):
    """mask bool [1, V] or [N, V]; kept and banned int64 offsets [N + 1] and ids, ascending in each row, elements
    adjacent; on hidden's device."""

    mask: Tensor | None = None
    kept: tuple[Tensor, Tensor] | None = None
    banned: tuple[Tensor, Tensor] | None = None

    def checked(self, head: Head) -> "Support":
        """With a mask whose rows' elements are adjacent; an error for what no request says."""
        rows, columns, device = head.hidden.shape[0], head.vocab_size, head.hidden.device
        for name, tensor, dtype in (
            ("mask", self.mask, torch.bool),
            ("kept", self.kept and self.kept[1], torch.int64),
            ("banned", self.banned and self.banned[1], torch.int64),
        ):
            if tensor is not None and (tensor.device != device or tensor.dtype != dtype):
                raise ValueError(f"{name}: {tensor.dtype} on {tensor.device}; expected {dtype} on {device}")
        if self.mask is None:
            return self
        if tuple(self.mask.shape) not in ((1, columns), (rows, columns)):
            raise ValueError(f"mask has shape {list(self.mask.shape)}; expected [1, {columns}] or [{rows}, {columns}]")
        return self._replace(mask=adjacent(self.mask))

    def fields(self) -> dict[str, Any]:
        """Of a request; this Support must outlive its call."""
        shared = self.mask is None or self.mask.shape[0] == 1
        return {
            "mask": pointer(self.mask),
            "mask_row_stride": 0 if shared else self.mask.stride(0),
            "kept": _lists(self.kept),
            "banned": _lists(self.banned),
        }


class Draws(NamedTuple):
    """Each of [1] or [N] on hidden's device: seeds and sequence_ids int64 (the bits of unsigned numbers), positions
    int64 from 0 to 2^32 - 1; min_p and top_p f32, top_k int64, or None: no cut."""

    seeds: Tensor
    sequence_ids: Tensor
    positions: Tensor
    min_p: Tensor | None = None
    top_k: Tensor | None = None
    top_p: Tensor | None = None

    def checked(self, head: Head) -> "Draws":
        """With adjacent elements and the positions' bits as int32; an error for what no request says."""
        for name, tensor in self._asdict().items():
            dtype = torch.float32 if name in ("min_p", "top_p") else torch.int64
            if tensor is not None and (tensor.device != head.hidden.device or tensor.dtype != dtype):
                raise ValueError(f"{name}: {tensor.dtype} on {tensor.device}; expected {dtype} on {head.hidden.device}")
        signed = torch.where(self.positions < 2**31, self.positions, self.positions - 2**32).to(torch.int32)
        return Draws(*(x if x is None else x.contiguous() for x in self._replace(positions=signed)))

    def fields(self) -> dict[str, Any]:
        """Of a request; these Draws must outlive its call."""
        named = self._asdict().items()
        counts = {f"{name.removesuffix('s')}_count": 0 if x is None else x.numel() for name, x in named}
        return {name: pointer(x) for name, x in named} | counts


class Library(Operators):
    """libisologit_cuda at a path."""

    def __init__(self, path: str | Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._tested: set[tuple[int, str]] = set()
        text = [c_char_p, c_size_t]
        for name, arguments in {
            "isologit_cuda_logits": [POINTER(LogitsRequest), *text],
            "isologit_cuda_logits_workspace": [c_int64, c_int64, c_int32, POINTER(c_size_t), *text],
            "isologit_cuda_score": [POINTER(ScoreRequest), *text],
            "isologit_cuda_score_workspace": [POINTER(ScoreRequest), POINTER(c_size_t), *text],
            "isologit_cuda_sample": [POINTER(SampleRequest), *text],
            "isologit_cuda_sample_workspace": [POINTER(SampleRequest), POINTER(c_size_t), *text],
            "isologit_cuda_backward": [POINTER(BackwardRequest), *text],
            "isologit_cuda_backward_workspace": [c_int64, c_int64, c_int32, c_int64, c_int32, POINTER(c_size_t), *text],
            "isologit_cuda_given": [POINTER(GivenRequest), *text],
            "isologit_cuda_given_workspace": [c_int64, c_int64, c_int64, POINTER(c_size_t), *text],
            "isologit_cuda_rms_norm": [POINTER(RmsNormRequest), *text],
            "isologit_cuda_residual": [POINTER(ResidualRequest), *text],
            "isologit_cuda_gate": [POINTER(GateRequest), *text],
            "isologit_cuda_rotary": [POINTER(RotaryRequest), *text],
            "isologit_cuda_attention": [POINTER(AttentionRequest), *text],
            "isologit_cuda_attention_workspace": [POINTER(AttentionRequest), POINTER(c_size_t), *text],
            "isologit_cuda_self_test": [c_int32, c_int32, *text],
        }.items():
            getattr(self._library, name).argtypes = arguments
            getattr(self._library, name).restype = c_int32

    def _call(self, name: str, *arguments: Any) -> None:
        message = ctypes.create_string_buffer(512)
        status = getattr(self._library, name)(*arguments, message, len(message))
        if status != 0:
            raise _ERRORS.get(status, RuntimeError)(message.value.decode())

    def self_test(self, device: int, arithmetic: str = "exact") -> None:
        """Once for each device and arithmetic; raises NotImplementedError where the device's is not what the proofs
        need."""
        if (device, arithmetic) not in self._tested:
            self._call("isologit_cuda_self_test", device, _ARITHMETICS.index(arithmetic))
            self._tested.add((device, arithmetic))

    def logits(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        vocab_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        out: Tensor | None = None,
        arithmetic: str = "exact",
    ) -> Tensor:
        """Logits [N, vocab_size] of hidden [N, H] under weight [V, H], each the exact sum rounded once to the type of
        out, or to dtype; or those of arithmetic "fast", which are f32. Both "_wgmma" too: the same bits."""
        head = Head(hidden, weight, bias, vocab_size, arithmetic=arithmetic)
        if out is not None and out.device != hidden.device:
            raise ValueError(f"out is on {out.device} and hidden on {hidden.device}; expected one device")
        head = head.checked()
        if out is None:
            out = torch.empty(hidden.shape[0], head.vocab_size, dtype=dtype, device=hidden.device)
        self._logits(head, out, None)
        return out

    def transformed(self, head: Head, out: Tensor) -> Tensor:
        """Writes the logits of a head after its transforms into out f32 [N, vocab_size]; returns the status [2]: how
        many were left open, which are NaN."""
        status = torch.zeros(2, dtype=torch.int32, device=head.hidden.device)
        self._logits(head.checked(), out, status)
        return status

    def _logits(self, head: Head, out: Tensor, status: Tensor | None) -> None:
        """Of a checked head."""
        hidden = head.hidden
        self.self_test(hidden.get_device(), head.arithmetic)
        workspace = self._workspace("logits", (*hidden.shape, dtype_code("hidden", hidden)), hidden.device)
        request = LogitsRequest(
            struct_size=ctypes.sizeof(LogitsRequest),
            **head.fields(),
            logits=out.data_ptr(),
            logits_dtype=dtype_code("out", out),
            logits_stride=out.stride(0),
            status=pointer(status),
            workspace=workspace.data_ptr(),
            workspace_size=workspace.numel(),
        )
        self._call("isologit_cuda_logits", ctypes.byref(request))

    def score(
        self,
        head: Head,
        token_ids: Tensor | None = None,
        *,
        outputs: Sequence[str] = ("logprobs",),
        ignore_index: int = -100,
        ignores_rows: bool = True,
        summaries: Tensor | None = None,
        top_k: int = 0,
        **support: Any,
    ) -> dict[str, Tensor]:
        """Of token_ids int64 [N, K] on hidden's device: the outputs by name, of SCORES, with top_k also "top_k_ids" and
        "top_k_logprobs" [N, top_k], and "status" [2], how many numbers were left open and how many ids are outside the
        vocabulary; these are NaN. ignores_rows: a row all of whose ids are ignore_index is 0 in every output. support:
        as of Support. summaries [N, 5] f64: what backward takes is written there."""
        if wrong := [name for name in outputs if name not in SCORES]:
            raise ValueError(f"outputs: {wrong[0]!r}; expected names of {', '.join(SCORES)}")
        head = head.checked(token_ids)
        within = Support(**support).checked(head)
        hidden, device, rows = head.hidden, head.hidden.device, head.hidden.shape[0]
        self.self_test(hidden.get_device(), head.arithmetic)
        token_ids = None if token_ids is None else token_ids.contiguous()
        ids = 0 if token_ids is None else token_ids.shape[1]
        found = {"status": torch.zeros(2, dtype=torch.int32, device=device)}
        for name in (*outputs, *("top_k_ids", "top_k_logprobs") * (top_k != 0)):
            shape = (rows, ids) if name in OF_IDS else (rows, top_k) if name.startswith("top_k") else (rows,)
            dtype = torch.int64 if name in _INTEGERS else torch.float32
            found[name] = torch.empty(shape, dtype=dtype, device=device)
        request = ScoreRequest(
            struct_size=ctypes.sizeof(ScoreRequest),
            **head.fields(),
            **_ids(token_ids, ignore_index),
            **within.fields(),
            ignores_rows=ignores_rows,
            summaries=pointer(summaries),
            top_k=top_k,
            **{name: tensor.data_ptr() for name, tensor in found.items()},
        )
        workspace = self._workspace("score", (ctypes.byref(request),), device)
        request.workspace, request.workspace_size = workspace.data_ptr(), workspace.numel()
        self._call("isologit_cuda_score", ctypes.byref(request))
        return found

    def sample(self, head: Head, draws: Draws, **support: Any) -> dict[str, Tensor]:
        """A token for each row: SAMPLES by name, and "status" [2]; where its first is not 0 they are of no use.
        support: as of Support."""
        head = head.checked()
        draws, within = draws.checked(head), Support(**support).checked(head)
        device = head.hidden.device
        self.self_test(head.hidden.get_device(), head.arithmetic)
        found = {"status": torch.zeros(2, dtype=torch.int32, device=device)}
        for name in SAMPLES:
            dtype = torch.int64 if name == "ids" else torch.float32
            found[name] = torch.empty(head.hidden.shape[0], dtype=dtype, device=device)
        request = SampleRequest(
            struct_size=ctypes.sizeof(SampleRequest),
            **head.fields(),
            **draws.fields(),
            **within.fields(),
            **{name: tensor.data_ptr() for name, tensor in found.items()},
        )
        workspace = self._workspace("sample", (ctypes.byref(request),), device)
        request.workspace, request.workspace_size = workspace.data_ptr(), workspace.numel()
        self._call("isologit_cuda_sample", ctypes.byref(request))
        return found

    def backward(
        self,
        head: Head,
        token_ids: Tensor | None = None,
        *,
        d_logprobs: Tensor | None = None,
        d_lse: Tensor | None = None,
        d_entropy: Tensor | None = None,
        d_mean_logits: Tensor | None = None,
        ignore_index: int = -100,
        summaries: Tensor | None = None,
        dhidden: Tensor | None = None,
        dweight: Tensor | None = None,
        dbias: Tensor | None = None,
        accumulate: bool = False,
        **support: Any,
    ) -> Tensor:
        """Writes `fast` gradients for upstreams f32 [N, K] and [N] into dhidden [N, H], dweight [>= vocab_size, H] and
        dbias; accumulate: adds to dweight; support: as of Support. Returns the status [2]: what is not proven, and
        wrong ids; both 0, or the gradients are of no use."""
        head = head.checked(token_ids)
        within = Support(**support).checked(head)
        hidden, device = head.hidden, head.hidden.device
        self.self_test(hidden.get_device(), head.arithmetic)
        if torch.bfloat16 in (hidden.dtype, head.weight.dtype):  # products of bf16 in f32 sums, whatever the logits are
            self.self_test(hidden.get_device(), "fast")
        token_ids = None if token_ids is None else token_ids.contiguous()
        upstreams = {"d_logprobs": d_logprobs, "d_lse": d_lse, "d_entropy": d_entropy, "d_mean_logits": d_mean_logits}
        upstreams = {name: None if x is None else x.float().contiguous() for name, x in upstreams.items()}
        shape = (*hidden.shape, dtype_code("hidden", hidden), head.vocab_size, int(summaries is not None))
        workspace = self._workspace("backward", shape, device)
        status = torch.zeros(2, dtype=torch.int32, device=device)
        request = BackwardRequest(
            struct_size=ctypes.sizeof(BackwardRequest),
            **head.fields(),
            **_ids(token_ids, ignore_index),
            **within.fields(),
            summaries=pointer(summaries),
            dhidden=_gradient("dhidden", dhidden),
            dweight=_gradient("dweight", dweight, accumulate),
            dbias=_gradient("dbias", dbias),
            status=status.data_ptr(),
            workspace=workspace.data_ptr(),
            workspace_size=workspace.numel(),
            **{name: pointer(x) for name, x in upstreams.items()},
        )
        self._call("isologit_cuda_backward", ctypes.byref(request))
        return status

    def of_logits(
        self,
        logits: Tensor,
        output: str,
        token_ids: Tensor | None = None,
        *,
        temperatures: Tensor | None = None,
        ignore_index: int = -100,
    ) -> tuple[Tensor, Tensor]:
        """Of logits [N, V]: log_softmax [N, V], logprobs of token_ids int64 [N, K], lse or entropy [N]; and the status
        as of score. temperatures f32 [1] or [N]."""
        operands = {"token_ids": (token_ids, torch.int64), "temperatures": (temperatures, torch.float32)}
        for name, (tensor, dtype) in operands.items():
            if tensor is not None and (tensor.device != logits.device or tensor.dtype != dtype):
                raise ValueError(f"{name}: {tensor.dtype} on {tensor.device}; expected {dtype} on {logits.device}")
        device = logits.get_device()
        self.self_test(device)
        logits = adjacent(logits)
        token_ids, temperatures = (None if x is None else x.contiguous() for x in (token_ids, temperatures))
        ids = 0 if token_ids is None else token_ids.shape[1]
        shapes = {"log_softmax": tuple(logits.shape), "logprobs": (logits.shape[0], ids)}
        shape = shapes.get(output, (logits.shape[0],))
        found = torch.empty(shape, dtype=torch.float32, device=logits.device)
        status = torch.zeros(2, dtype=torch.int32, device=logits.device)
        workspace = self._workspace("given", (*logits.shape, ids), logits.device)
        request = GivenRequest(
            struct_size=ctypes.sizeof(GivenRequest),
            device=device,
            stream=torch.cuda.current_stream(device).cuda_stream,
            logits=matrix("logits", logits),
            temperatures=pointer(temperatures),
            temperature_count=0 if temperatures is None else temperatures.numel(),
            token_ids=pointer(token_ids),
            ids_per_row=ids,
            ignore_index=ignore_index,
            log_softmax_stride=logits.shape[1],
            status=status.data_ptr(),
            workspace=workspace.data_ptr(),
            workspace_size=workspace.numel(),
            **{output: found.data_ptr()},
        )
        self._call("isologit_cuda_given", ctypes.byref(request))
        return found, status

    def _workspace(self, verb: str, told: Sequence[Any], device: torch.device) -> Tensor:
        size = c_size_t()
        self._call(f"isologit_cuda_{verb}_workspace", *told, ctypes.byref(size))
        return torch.empty(size.value, dtype=torch.uint8, device=device)


def _ids(token_ids: Tensor | None, ignore_index: int) -> dict[str, Any]:
    ids_per_row = 0 if token_ids is None else token_ids.shape[1]
    return {"token_ids": pointer(token_ids), "ids_per_row": ids_per_row, "ignore_index": ignore_index}


def _lists(offsets_and_ids: tuple[Tensor, Tensor] | None) -> IdLists:
    return IdLists() if offsets_and_ids is None else IdLists(*(x.data_ptr() for x in offsets_and_ids))


def _gradient(name: str, tensor: Tensor | None, accumulate: bool = False) -> Gradient:
    if tensor is None:
        return Gradient()
    row_stride = tensor.stride(0) if tensor.dim() > 1 else 0
    return Gradient(tensor.data_ptr(), row_stride, dtype_code(name, tensor), accumulate)
