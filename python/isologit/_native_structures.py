"""The structures of isologit.h for ctypes, those of forward.h that cuda.h shares, and the runs of members that others
share with them."""

import ctypes
from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_void_p,
)
from typing import Any


def pointers(*names: str) -> list[tuple[str, Any]]:
    return [(name, c_void_p) for name in names]


def _counted(*names: str) -> list[tuple[str, Any]]:
    """Of each name a pointer, and how many elements it has: "seeds" and "seed_count"."""
    return [member for name in names for member in ((name, c_void_p), (f"{name.removesuffix('s')}_count", c_int64))]


class Matrix(Structure):
    _fields_ = [("data", c_void_p), ("rows", c_int64), ("cols", c_int64), ("row_stride", c_int64), ("dtype", c_int32)]


class Vector(Structure):
    _fields_ = [("data", c_void_p), ("size", c_int64), ("dtype", c_int32)]


class Tensor(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("tokens", c_int64),
        ("heads", c_int64),
        ("dim", c_int64),
        ("token_stride", c_int64),
        ("head_stride", c_int64),
        ("dtype", c_int32),
    ]


class Output(Structure):
    _fields_ = [("data", c_void_p), ("token_stride", c_int64), ("head_stride", c_int64)]


class Lora(Structure):
    _fields_ = [("a", Matrix), ("b", Matrix), ("scale", c_double)]


class Gradient(Structure):
    _fields_ = [("data", c_void_p), ("row_stride", c_int64), ("dtype", c_int32), ("accumulate", c_int32)]


class IdLists(Structure):
    _fields_ = pointers("offsets", "ids")


# Runs of members that several structures share.
SIZE = [("struct_size", c_size_t)]
_TEMPERATURES = _counted("temperatures")
_IGNORE_INDEX = [("has_ignore_index", c_int32), ("ignore_index", c_int64)]
_ROWS = [*pointers("row_mask", "row_list"), ("row_count", c_int64)]
_SUPPORT = [
    ("has_range", c_int32),
    ("first_id", c_int64),
    ("last_id", c_int64),
    ("kept", IdLists),
    ("banned", IdLists),
]
_MASK = [("mask", c_void_p), ("mask_row_stride", c_int64)]
THREADS_AND_KERNEL = [("threads", c_int32), ("kernel", c_char_p)]
ATTENTION = [
    *((name, Tensor) for name in ("q", "keys", "values")),
    ("sequences", c_int64),
    *pointers("query_starts", "key_counts", "first_keys", "block_table"),
    *((name, c_int64) for name in ("blocks_per_sequence", "block_size", "key_block_stride", "value_block_stride")),
    ("scale", c_float),
    ("softcap", c_float),
    ("not_causal", c_int32),
    ("window", c_int64),
    ("sinks", c_void_p),
    ("y", Output),
]
ROTARY = [
    ("x", Tensor),
    *pointers("positions", "frequencies"),
    ("frequency_count", c_int64),
    ("layout", c_int32),
    ("factor", c_float),
    ("y", Output),
]
PROGRESS_AND_USER = pointers("progress", "user")
PROCESSORS = [("processors", POINTER(c_int32)), ("processor_count", c_int64)]
_KERNEL_NAME = [("kernel", c_char * 32)]
_THREADS_TO_FALLBACKS = [("threads", c_int32), ("rounds", c_int32), ("rows", c_int64), ("logit_fallbacks", c_int64)]


class Sized(Structure):
    """A structure that begins with its size."""

    def __init__(self, **members: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(self), **members)


class Head(Sized):
    _fields_ = [
        *SIZE,
        ("weight", Matrix),
        ("bias", Vector),
        ("vocab_size", c_int64),
        ("has_softcap", c_int32),
        ("softcap", c_float),
        ("scale_kind", c_int32),
        ("scale", c_float),
        ("transform_order", c_int32),
        ("encoded", c_void_p),
        ("encoding", c_int32),
        ("f8_product", c_int32),
        ("f8_scales", Matrix),
        ("f8_block_rows", c_int64),
        ("f8_block_cols", c_int64),
        ("f8_first_row", c_int64),
        ("lora", Lora),
    ]


class ScoreRequest(Sized):
    _fields_ = [
        *SIZE,
        ("hidden", Matrix),
        ("token_ids", c_void_p),
        *_TEMPERATURES,
        *_IGNORE_INDEX,
        *pointers("logprobs", "lse", "entropy", "argmax", "rank", "raw_logprobs", "sum_p2", "log_kept"),
        *_ROWS,
        *_SUPPORT,
        ("ids_per_row", c_int64),
        *pointers("ids", "ids_logprobs"),
        ("top_k", c_int64),
        *pointers("top_k_ids", "top_k_logprobs"),
        ("logits", c_void_p),
        ("logits_dtype", c_int32),
        ("logits_row_stride", c_int64),
        ("logits_first_id", c_int64),
        ("logits_count", c_int64),
        *pointers("summaries", "mean_logits"),
        *_MASK,
    ]


class BackwardRequest(Sized):
    _fields_ = [
        *SIZE,
        ("hidden", Matrix),
        ("token_ids", c_void_p),
        ("ids_per_row", c_int64),
        *_TEMPERATURES,
        *_IGNORE_INDEX,
        *_SUPPORT,
        *pointers("d_logprobs", "d_lse", "d_entropy", "d_logits"),
        ("d_logits_row_stride", c_int64),
        ("dhidden", Gradient),
        ("dweight", Gradient),
        ("dbias", Gradient),
        *pointers("summaries", "d_mean_logits"),
        *_MASK,
        ("dlora_a", Gradient),
        ("dlora_b", Gradient),
    ]


class SampleRequest(Sized):
    _fields_ = [
        *SIZE,
        ("hidden", Matrix),
        *_counted("temperatures", "seeds", "sequence_ids", "positions", "min_p", "top_k", "top_p"),
        *_SUPPORT,
        *_ROWS,
        *pointers("ids", "logprobs", "cut_logprobs", "log_kept_cut"),
        *_MASK,
    ]


_LOGITS_AND_IDS = [
    *SIZE,
    ("logits", Matrix),
    *_TEMPERATURES,
    ("token_ids", c_void_p),
    ("ids_per_row", c_int64),
    *_IGNORE_INDEX,
]


class LogitsRequest(Sized):
    _fields_ = [
        *_LOGITS_AND_IDS,
        *pointers("logprobs", "lse", "entropy", "log_softmax"),
        ("log_softmax_row_stride", c_int64),
    ]


class LogitsSampleRequest(Sized):
    _fields_ = [
        *SIZE,
        ("logits", Matrix),
        *_counted("temperatures", "seeds", "sequence_ids", "positions", "min_p", "top_k", "top_p"),
        *pointers("ids", "logprobs", "cut_logprobs", "log_kept_cut", "cut_mask"),
    ]


class LogitsBackwardRequest(Sized):
    _fields_ = [
        *_LOGITS_AND_IDS,
        *pointers("d_logprobs", "d_lse", "d_entropy", "d_log_softmax"),
        ("d_log_softmax_row_stride", c_int64),
        ("dlogits", c_void_p),
        ("dlogits_row_stride", c_int64),
    ]


class Peers(Sized):
    _fields_ = [
        *SIZE,
        ("first_id", c_int64),
        ("vocab_size", c_int64),
        ("count", c_int32),
        *pointers("gather", "user", "scatter"),
        ("first_row", c_int64),
        ("last_row", c_int64),
        ("party", c_int32),
    ]


_PEERS = [("peers", POINTER(Peers))]


class ScoreOptions(Sized):
    _fields_ = [*SIZE, *THREADS_AND_KERNEL, *PROGRESS_AND_USER, ("arithmetic", c_int32), *PROCESSORS, *_PEERS]


class BackwardOptions(Sized):
    _fields_ = [
        *SIZE,
        ("has_arithmetic", c_int32),
        ("arithmetic", c_int32),
        ("logits_arithmetic", c_int32),
        *THREADS_AND_KERNEL,
        *PROGRESS_AND_USER,
        *PROCESSORS,
        *_PEERS,
    ]


class ScoreReport(Sized):
    _fields_ = [
        *SIZE,
        *_KERNEL_NAME,
        *_THREADS_TO_FALLBACKS,
        ("undecided_rows", c_int64),
        ("arithmetic", c_int32),
        ("processors", c_int32),
    ]


class SampleReport(Sized):
    _fields_ = [
        *SIZE,
        *_KERNEL_NAME,
        *_THREADS_TO_FALLBACKS,
        ("further_rows", c_int64),
        ("undecided_rows", c_int64),
        ("second_words", c_int64),
        ("exact_draws", c_int64),
        ("arithmetic", c_int32),
        ("processors", c_int32),
    ]


class KernelInfo(Sized):
    _fields_ = [
        *SIZE,
        ("name", c_char * 32),
        ("instruction_set", c_char * 64),
        ("arithmetic", c_char * 16),
        ("why_not", c_char * 128),
        ("dtypes", c_uint32),
        ("runnable", c_int32),
        ("chosen", c_int32),
    ]
