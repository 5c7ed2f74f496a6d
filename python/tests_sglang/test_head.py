"""SGLang's own layers, made in this process after its own loading of plugins."""

import inspect
import types

import expected
import numpy as np
import pytest
import torch
from torch import nn

ROWS, VOCAB, SIZE = 5, 40, 32


@pytest.fixture(autouse=True)
def _plugins(plugins):
    pass


def bf16(*shape, seed=0, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).bfloat16()


def head(bias=False, rows=48):
    """An untied head of SGLang's with padded rows."""
    from sglang.srt.layers.vocab_parallel_embedding import ParallelLMHead

    made = ParallelLMHead(rows, SIZE, bias=bias, params_dtype=torch.bfloat16, enable_tp=False)
    made.weight.data.copy_(bf16(*made.weight.shape, seed=1, scale=2.0))
    if bias:
        made.bias.data.copy_(bf16(len(made.bias), seed=2))
    return made


def layer(kind=None, **config):
    from sglang.srt.layers.logits_processor import LogitsProcessor

    return (kind or LogitsProcessor)(types.SimpleNamespace(vocab_size=VOCAB, **config))


def metadata(**fields):
    from sglang.srt.layers.logits_processor import LogitsMetadata
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    return LogitsMetadata(**{"forward_mode": ForwardMode.DECODE} | fields)


def right_logits(hidden, lm_head, bias=None):
    weight = lm_head.weight.detach().float().numpy()[:VOCAB]
    bias = None if bias is None else bias.detach().float().numpy()
    return np.array([expected.logits(row, weight, bias) for row in hidden.float().numpy()])


def same(got, wanted) -> bool:
    return expected.bits(got) == expected.bits(wanted)


@pytest.mark.parametrize("bias", [False, True], ids=["", "with a bias"])
def test_logits(bias):
    """SGLang drops the bias of a head that has one (phi, phimoe); the model's logits have it."""
    hidden, lm_head = bf16(ROWS, SIZE), head(bias)
    logits = layer()(None, hidden, lm_head, metadata()).next_token_logits
    assert logits.shape == (ROWS, VOCAB) and logits.dtype == torch.float32
    assert same(logits, right_logits(hidden, lm_head, lm_head.bias if bias else None))


def test_logits_in_the_callers_buffer():
    hidden, lm_head, buffer = bf16(ROWS, SIZE), head(), torch.zeros(ROWS, VOCAB)
    logits = layer()(None, hidden, lm_head, metadata(next_token_logits_buffer=buffer)).next_token_logits
    assert logits is buffer and same(buffer, right_logits(hidden, lm_head))


def test_without_the_hook_logits_would_differ():
    from sglang.srt.layers.logits_processor import LogitsProcessor

    hidden, lm_head = bf16(ROWS, SIZE), head()
    stock = inspect.unwrap(LogitsProcessor._compute_lm_head)
    assert not same(stock(layer(), hidden, lm_head)[:, :VOCAB].float(), right_logits(hidden, lm_head))


def test_a_weight_written_in_place_is_seen_at_once():
    hidden, lm_head, made = bf16(ROWS, SIZE), head(), layer()
    made(None, hidden, lm_head, metadata())
    lm_head.weight.data.copy_(lm_head.weight.data.flip(1))
    assert same(made(None, hidden, lm_head, metadata()).next_token_logits, right_logits(hidden, lm_head))


def test_the_head_is_not_repacked_for_amx(monkeypatch):
    from sglang.srt.layers import amx_utils

    monkeypatch.setattr(amx_utils, "cpu_has_amx_support", lambda: True)
    monkeypatch.setattr(amx_utils, "amx_process_weight_after_loading", lambda weight, is_conv: weight.flip(0))
    lm_head, other = head(), nn.Linear(SIZE, 48, bias=False, dtype=torch.bfloat16)
    before = lm_head.weight.data.clone(), other.weight.data.clone()
    for module in (lm_head, other):
        amx_utils.PackWeightMethod(["weight"]).process_weights_after_loading(module)
    assert torch.equal(lm_head.weight, before[0]) and torch.equal(other.weight, before[1].flip(0))
    assert not lm_head.use_intel_amx_backend and other.use_intel_amx_backend
    hidden = bf16(ROWS, SIZE)
    assert same(layer()(None, hidden, lm_head, metadata()).next_token_logits, right_logits(hidden, lm_head))


class Fp8LinearMethod:
    def apply(self, layer, x, bias):
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_intel_amx_backend": True}, "was repacked for AMX; expected \\[V, H\\] row by row"),
        ({"quant_method": Fp8LinearMethod()}, "quantisation method is Fp8LinearMethod; expected an unquantised head"),
        ({"set_lora": True, "apply_lora": None}, "has a LoRA adapter; expected none"),
    ],
    ids=["repacked", "quantised", "lora"],
)
def test_heads_that_are_refused(change, message):
    lm_head = head()
    for name, value in change.items():
        setattr(lm_head, name, value)
    with pytest.raises(ValueError, match=message):
        layer()(None, bf16(ROWS, SIZE), lm_head, metadata())


def test_a_head_without_weight_is_refused():
    gguf = types.SimpleNamespace(quant_method=Fp8LinearMethod())
    with pytest.raises(ValueError, match="quantisation method is Fp8LinearMethod"):
        layer()(None, bf16(ROWS, SIZE), gguf, metadata())


def test_another_device_is_refused():
    with pytest.raises(ValueError, match="hidden states are on meta; expected the CPU"):
        layer()._compute_lm_head(bf16(ROWS, SIZE).to("meta"), head())


def test_a_layer_with_a_product_of_its_own_is_refused():
    from sglang.srt.models.muse_spark import MuseSpark1xLogitsProcessor as kind

    with pytest.raises(RuntimeError, match=f"in SGLang .*{kind.__name__} has a _compute_lm_head of its own. Switch"):
        layer(kind)


def test_another_hook_in_its_place_is_refused(monkeypatch):
    from sglang.srt.layers.logits_processor import LogitsProcessor

    def other(self, hidden_states, lm_head, embedding_bias=None, *, out=None):
        return hidden_states @ lm_head.weight.T

    monkeypatch.setattr(LogitsProcessor, "_compute_lm_head", other)
    with pytest.raises(RuntimeError, match="something else takes the place of LogitsProcessor._compute_lm_head"):
        layer()


def test_rounding_to_bf16_is_refused(monkeypatch):
    from isologit.integrations.sglang import _start

    on_policy = types.SimpleNamespace(deterministic=types.SimpleNamespace(rl_on_policy_target="fsdp"))
    monkeypatch.setattr(_start, "get_exec", lambda: on_policy)
    with pytest.raises(RuntimeError, match="--rl-on-policy-target rounds logits to bf16"):
        layer()


def test_a_hook_that_was_not_applied_is_refused(monkeypatch):
    from sglang.srt.plugins.hook_registry import HookRegistry

    target = "sglang.srt.layers.sampler.Sampler.forward"
    monkeypatch.setattr(HookRegistry, "_patched", HookRegistry._patched - {target})
    with pytest.raises(RuntimeError, match=f"SGLang has not put it around {target}"):
        layer()


def test_off_unless_it_is_named(monkeypatch):
    from isologit.integrations import sglang as plugin
    from isologit.integrations.sglang import _start

    installed = []
    monkeypatch.setattr(_start, "install", lambda: installed.append(True))
    for value in ("", "other", "isologits,other"):
        monkeypatch.setenv("SGLANG_PLUGINS", value)
        plugin.register()
    monkeypatch.delenv("SGLANG_PLUGINS")
    plugin.register()
    assert not installed
    monkeypatch.setenv("SGLANG_PLUGINS", "other, isologit")
    plugin.register()
    assert installed


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("sglang.srt.layers.sampler.Sampler.forwards", "forwards is not there"),
        ("sglang.srt.layers.sampler.Sampler._preprocess_logits", "takes self, logits, sampling_info; expected self"),
    ],
)
def test_drift_ends_the_process(monkeypatch, target, message):
    """SGLang would only log an exception of a plugin."""
    from isologit.integrations import sglang as plugin
    from isologit.integrations.sglang import _start

    monkeypatch.setattr(_start, "HOOKS", {target: ("self", None, None)})
    with pytest.raises(SystemExit, match=f"isologit .* in SGLang .*{message}"):
        plugin.register()


@pytest.mark.parametrize(
    ("binding", "processors"),
    [("3", {3}), ("0-3,8", {0, 1, 2, 3, 8}), ("0,2,4", {0, 2, 4})],
)
def test_processors(monkeypatch, binding, processors):
    from isologit.integrations.sglang import _processors

    monkeypatch.setattr(_processors, "_bound", frozenset())
    assert _processors.bound()
    _processors.keep_binding(binding, numa_index=0, world_size=1)
    assert _processors.bound() == processors
