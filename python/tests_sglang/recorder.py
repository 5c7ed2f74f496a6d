"""A plugin of SGLang's, beside isologit's: keeps what passed the head, and what the sampler returned, of rank 0."""

import itertools
import os

import torch
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_parallel

_LAYERS = "sglang.srt.layers"
_numbers = itertools.count()


def _keep(kind: str, **values) -> None:
    if get_parallel().tp_rank != 0:
        return
    folder = os.environ["RECORDER_FOLDER"]
    number = next(_numbers)
    torch.save(values, f"{folder}/{kind}-{number:06}.part")
    os.rename(f"{folder}/{kind}-{number:06}.part", f"{folder}/{kind}-{number:06}")


def _head(logits, layer, hidden_states, lm_head, *args, **kwargs):
    _keep("head", hidden=hidden_states.clone(), logits=logits.clone(), weight=lm_head.weight.detach().clone())


def _sampler(original, sampler, logits_output, info, return_logprob, *args, **kwargs):
    final = logits_output.next_token_logits.clone()
    ids = original(sampler, logits_output, info, return_logprob, *args, **kwargs)
    if return_logprob:
        _keep(
            "sampler",
            final=final,
            temperatures=torch.ones(len(final)) if info.is_all_greedy else info.temperatures.clone().flatten(),
            ids=ids.clone(),
            logprobs=logits_output.next_token_logprobs.clone(),
        )
    return ids


def register() -> None:
    HookRegistry.register(f"{_LAYERS}.logits_processor.LogitsProcessor._get_logits", _head, HookType.AFTER)
    HookRegistry.register(f"{_LAYERS}.sampler.Sampler.forward", _sampler, HookType.AROUND)
