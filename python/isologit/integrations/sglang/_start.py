"""What the plugin puts around SGLang's functions, and the checks, before a model serves, that it is in force there."""

import functools
import inspect
import logging
import pkgutil
import types
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NoReturn

import torch
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_exec

import isologit
from isologit.integrations.sglang import _head, _logprobs, _processors

_log = logging.getLogger("sglang.isologit")

_LAYERS = "sglang.srt.layers"
_LOGITS = f"{_LAYERS}.logits_processor.LogitsProcessor"
_LOGPROBS = f"{_LAYERS}.logprob_processor"


def _made(_: None, layer: LogitsProcessor, *args: Any, **kwargs: Any) -> None:
    """After a model has made its layer from hidden states to logits."""
    check(layer)
    # It would return logits less a log-sum-exp, both rounded; without it, it takes log_softmax.
    layer.input_logprob_processor.enable_fast_input_logprobs = False
    _log_once()


# Of each function: its parameters, and what is put around or after it.
HOOKS: dict[str, tuple[str, HookType, Callable[..., Any]]] = {
    f"{_LOGITS}.__init__": (
        "self config skip_all_gather logit_scale return_full_logits",
        HookType.AFTER,
        _made,
    ),
    f"{_LOGITS}._compute_lm_head": ("self hidden_states lm_head embedding_bias out", HookType.AROUND, _head.logits),
    f"{_LAYERS}.amx_utils.PackWeightMethod.process_weights_after_loading": (
        "self module",
        HookType.AROUND,
        _head.leave_unpacked,
    ),
    f"{_LAYERS}.sampler.Sampler.forward": (
        "self logits_output sampling_info return_logprob top_logprobs_nums token_ids_logprobs positions logprob_logits",
        HookType.AROUND,
        _logprobs.sampled,
    ),
    f"{_LOGPROBS}.InputLogprobProcessor.forward": (
        "self pruned_states sample_indices input_logprob_indices token_to_seq_idx lm_head get_logits_fn "
        "logits_metadata skip_chunking_for_dp_attn",
        HookType.AROUND,
        _logprobs.exact,
    ),
    f"{_LOGPROBS}.OutputLogprobProcessor.compute_logprobs_only": (
        "self next_token_logits top_logprobs_nums token_ids_logprobs preprocess_fn",
        HookType.AROUND,
        _logprobs.exact,
    ),
    f"{_LOGPROBS}.compute_spec_logprobs": (
        "batch logits_output predict accept_index chain_stride",
        HookType.AROUND,
        _logprobs.exact,
    ),
    f"{_LOGITS}.compute_logprobs_for_multi_item_scoring": (
        "self input_ids hidden_states lm_head logits_metadata multi_item_delimiter_indices",
        HookType.AROUND,
        _logprobs.exact,
    ),
    f"{_LOGITS}.compute_logprobs_at_positions": (
        "self input_ids hidden_states lm_head logits_metadata token_indices_to_pool",
        HookType.AROUND,
        _logprobs.exact,
    ),
    "sglang.srt.utils.numa_utils.init_threads_binding": (
        "numa_index world_size",
        HookType.AFTER,
        _processors.keep_binding,
    ),
}


def install() -> None:
    for target, (parameters, kind, hook) in HOOKS.items():
        _check_signature(target, parameters.split())
        HookRegistry.register(target, hook, kind)


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(
        f"isologit {isologit.__version__} in SGLang {version('sglang')}: SGLANG_PLUGINS asks for isologit's head, but "
        f"{what}. Switch that off, use the versions of docs/integrations/sglang.md, or take isologit out of "
        "SGLANG_PLUGINS"
    )


def _check_signature(target: str, expected: list[str]) -> None:
    try:
        found = list(inspect.signature(pkgutil.resolve_name(target)).parameters)
    except (ImportError, AttributeError) as error:
        _refuse(f"{target} is not there ({error})")
    if found != expected:
        _refuse(f"{target} takes {', '.join(found)}; expected {', '.join(expected)}")


def check(layer: LogitsProcessor) -> None:
    """Raises unless this layer's logits, and the logprobs made of them, come from here."""
    if missing := sorted(HOOKS.keys() - HookRegistry._patched):
        _refuse(f"SGLang has not put it around {', '.join(missing)} (its log says why)")
    kind = type(layer)
    if kind._compute_lm_head is not LogitsProcessor._compute_lm_head:
        _refuse(f"the model's layer {kind.__module__}.{kind.__qualname__} has a _compute_lm_head of its own")
    if get_exec().deterministic.rl_on_policy_target is not None:
        _refuse("--rl-on-policy-target rounds logits to bf16")
    # All of the layer's ways to logits lead through this call, and so through whatever else has been put around it.
    before = _head.calls
    head = types.SimpleNamespace(weight=torch.ones(2, 1))
    logits = layer._compute_lm_head(torch.ones(1, 1), head, torch.tensor([0.0, 1.0]))
    if _head.calls == before or logits.tolist() != [[1.0, 2.0]]:
        _refuse(f"something else takes the place of LogitsProcessor._compute_lm_head (hooks: {_hooks_there()})")


def _hooks_there() -> str:
    sources = [source for _, _, source in HookRegistry._hooks[f"{_LOGITS}._compute_lm_head"]]
    return ", ".join("unknown" if source is None else source.plugin_name for source in sources)


@functools.cache
def _log_once() -> None:
    _log.info(
        "isologit %s in SGLang %s: exact logits and logprobs, processors %s",
        isologit.__version__,
        version("sglang"),
        ",".join(map(str, sorted(_processors.bound()))),
    )
