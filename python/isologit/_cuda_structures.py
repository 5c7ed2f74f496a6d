"""The structures of isologit/cuda.h."""

from ctypes import Structure, c_float, c_int32, c_int64, c_size_t, c_void_p

from ._native_structures import ATTENTION, ROTARY, IdLists, Matrix, Output, Tensor, Vector

_CALL = [("struct_size", c_size_t), ("device", c_int32), ("stream", c_void_p)]
_OPERANDS = [
    *_CALL,
    ("hidden", Matrix),
    ("weight", Matrix),
    ("bias", Vector),
    ("vocab_size", c_int64),
]
_WORKSPACE = [("workspace", c_void_p), ("workspace_size", c_size_t)]


_HEAD = [
    *_OPERANDS,
    ("arithmetic", c_int32),
    ("has_softcap", c_int32),
    ("softcap", c_float),
    ("scale_kind", c_int32),
    ("scale", c_float),
    ("transform_order", c_int32),
    ("temperatures", c_void_p),
    ("temperature_count", c_int64),
]


class LogitsRequest(Structure):
    _fields_ = [
        *_HEAD,
        ("logits", c_void_p),
        ("logits_dtype", c_int32),
        ("logits_stride", c_int64),
        ("status", c_void_p),
        *_WORKSPACE,
    ]


_IDS = [("token_ids", c_void_p), ("ids_per_row", c_int64), ("ignore_index", c_int64)]
_SUPPORT = [("mask", c_void_p), ("mask_row_stride", c_int64), ("kept", IdLists), ("banned", IdLists)]


class ScoreRequest(Structure):
    _fields_ = [
        *_HEAD,
        *_IDS,
        ("ignores_rows", c_int32),
        ("logprobs", c_void_p),
        ("chosen_logits", c_void_p),
        ("lse", c_void_p),
        ("entropy", c_void_p),
        ("sum_p2", c_void_p),
        ("argmax", c_void_p),
        ("log_kept", c_void_p),
        ("rank", c_void_p),
        ("top_k", c_int64),
        ("top_k_ids", c_void_p),
        ("top_k_logprobs", c_void_p),
        *_SUPPORT,
        ("summaries", c_void_p),
        ("status", c_void_p),
        *_WORKSPACE,
    ]


class SampleRequest(Structure):
    _fields_ = [
        *_HEAD,
        ("seeds", c_void_p),
        ("seed_count", c_int64),
        ("sequence_ids", c_void_p),
        ("sequence_id_count", c_int64),
        ("positions", c_void_p),
        ("position_count", c_int64),
        ("min_p", c_void_p),
        ("min_p_count", c_int64),
        ("top_k", c_void_p),
        ("top_k_count", c_int64),
        ("top_p", c_void_p),
        ("top_p_count", c_int64),
        *_SUPPORT,
        ("ids", c_void_p),
        ("logprobs", c_void_p),
        ("cut_logprobs", c_void_p),
        ("log_kept_cut", c_void_p),
        ("status", c_void_p),
        *_WORKSPACE,
    ]


class GivenRequest(Structure):
    _fields_ = [
        *_CALL,
        ("logits", Matrix),
        ("temperatures", c_void_p),
        ("temperature_count", c_int64),
        *_IDS,
        ("logprobs", c_void_p),
        ("lse", c_void_p),
        ("entropy", c_void_p),
        ("log_softmax", c_void_p),
        ("log_softmax_stride", c_int64),
        ("status", c_void_p),
        *_WORKSPACE,
    ]


class Gradient(Structure):
    _fields_ = [("data", c_void_p), ("row_stride", c_int64), ("dtype", c_int32), ("accumulate", c_int32)]


class BackwardRequest(Structure):
    _fields_ = [
        *_HEAD,
        *_IDS,
        ("d_logprobs", c_void_p),
        ("d_lse", c_void_p),
        ("d_entropy", c_void_p),
        ("d_mean_logits", c_void_p),
        *_SUPPORT,
        ("summaries", c_void_p),
        ("dhidden", Gradient),
        ("dweight", Gradient),
        ("dbias", Gradient),
        ("status", c_void_p),
        *_WORKSPACE,
    ]


class RmsNormRequest(Structure):
    _fields_ = [
        *_CALL,
        ("x", Tensor),
        ("weight", Vector),
        ("epsilon", c_float),
        ("one_plus_weight", c_int32),
        ("y", Output),
    ]


class ResidualRequest(Structure):
    _fields_ = [*_CALL, ("x", Tensor), ("a", Tensor), ("b", Tensor), ("multiplier", c_float), ("y", Output)]


class GateRequest(Structure):
    _fields_ = [
        *_CALL,
        ("kind", c_int32),
        ("gate", Tensor),
        ("up", Tensor),
        ("alpha", c_float),
        ("limit", c_float),
        ("y", Output),
        ("status", c_void_p),
    ]


class RotaryRequest(Structure):
    _fields_ = [*_CALL, *ROTARY, ("status", c_void_p)]


class AttentionRequest(Structure):
    _fields_ = [*_CALL, *ATTENTION, ("status", c_void_p), *_WORKSPACE]
