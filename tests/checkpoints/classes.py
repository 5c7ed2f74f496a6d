"""The classes of the installed Transformers that give logits over a vocabulary, each looked at in a process of its
own."""

import gc
import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from tiny_model import NotBuilt, in_words, size_that_runs
from transformers.models.auto import modeling_auto

TASKS = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "MULTIMODAL_LM", "IMAGE_TEXT_TO_TEXT")
MEMORY = 8 << 30
# Text models that composite models are tried with besides their own, where they take any.
TEXT_TYPES = ("llama", "mistral", "qwen2", "gemma2", "granite", "cohere2")
# The most used ones, by downloads, of which the quick tests make sure.
MOST_USED = (
    "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "MistralForCausalLM",
    "MixtralForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Phi3ForCausalLM",
    "GPT2LMHeadModel", "GPTNeoXForCausalLM", "OPTForCausalLM", "BloomForCausalLM", "DeepseekV3ForCausalLM",
    "CohereForCausalLM", "GraniteForCausalLM", "Qwen2_5_VLForConditionalGeneration", "LlavaForConditionalGeneration",
    "WhisperForConditionalGeneration", "T5ForConditionalGeneration", "BertForMaskedLM",
)


def prepare() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)


def class_names() -> list[str]:
    names: set[str] = set()
    for task in TASKS:
        for found in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").values():
            names |= {found} if isinstance(found, str) else set(found)
    return sorted(names)


def takes_any_text(model_class: type) -> bool:
    sub_configs = getattr(model_class.config_class, "sub_configs", {})
    return sub_configs.get("text_config") is transformers.AutoConfig


def cases(names: list[str]) -> list[tuple[str, str | None]]:
    """Each class, and then those that take any text model with each of TEXT_TYPES."""
    found: list[tuple[str, str | None]] = [(name, None) for name in names]
    for name in names:
        try:
            any_text = takes_any_text(getattr(transformers, name))
        except Exception:  # needs what is not installed; in_process says so
            continue
        if any_text:
            found += [(name, text_type) for text_type in TEXT_TYPES]
    return found


def in_process(function: Callable[..., Any], *arguments: Any, seconds: int = 120) -> Any:
    """What the function returns, by JSON; {"not": why} if it raises NotBuilt, fails, or takes too long or too much."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(seconds)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            result = function(*arguments)
        except BaseException as error:
            result = {"not": in_words(error), "built": not isinstance(error, NotBuilt)}
        with os.fdopen(writer, "w") as out:
            json.dump(result, out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if not text:
        return {"not": f"it took more than {seconds} s" if status == signal.SIGALRM else f"it ended with {status}"}
    return json.loads(text)


def in_processes(function: Callable[..., Any], wanted: list[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Calls the function with each of `wanted`, one process each, one after the other."""
    prepare()
    size_that_runs(transformers.LlamaForCausalLM)  # what all classes import is imported once
    size_that_runs(transformers.LlavaForConditionalGeneration)
    gc.freeze()
    sys.stdout.flush()
    for arguments in wanted:
        yield arguments, in_process(function, *arguments)
