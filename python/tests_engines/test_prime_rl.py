"""prime-rl's switch, enable_fp32_lm_head of its inference configuration, turns isologit's head on in vLLM.

prime-rl is on no package index: prime_rl.json holds what its sources say at a commit. With PRIME_RL, a checkout, in the
environment (and PyPI's prime-pydantic-config installed) this holds the file to them.
"""

import ast
import functools
import json
import os
import sys
import types
from pathlib import Path

import expected
import pytest
import torch

from isologit.integrations import vllm as plugin
from isologit.integrations.vllm import _settings

RECORDED = json.loads(Path(__file__).with_name("prime_rl.json").read_text())
CHECKOUT = os.environ.get("PRIME_RL")


def test_its_configuration_asks_for_exact_logits_and_logprobs():
    assert RECORDED["enable_fp32_lm_head"] is True
    assert _settings.read(RECORDED["additional_config"]) == _settings.Settings()
    own = {"isologit": {"logprobs": "engine"}}  # its vllm.additional_config goes through, beside
    assert _settings.read(RECORDED["additional_config"] | own) == _settings.Settings(logprobs="engine")


@pytest.fixture
def patched(monkeypatch):
    """What prime-rl does to vLLM's layer in every worker: a flag from additional_config, and a product in f32 where it
    is set."""
    from vllm.config import get_current_vllm_config
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    plugin.register()
    init, get_logits, flag = LogitsProcessor.__init__, LogitsProcessor._get_logits, RECORDED["flag"]

    @functools.wraps(init)
    def patched_init(self, *args, **kwargs):
        init(self, *args, **kwargs)
        setattr(self, flag, get_current_vllm_config().additional_config.get("fp32_lm_head", False))

    def patched_get_logits(self, hidden_states, lm_head, *rest):
        if getattr(self, flag):
            return hidden_states.float() @ lm_head.weight.float().T
        return get_logits(self, hidden_states, lm_head, *rest)

    monkeypatch.setattr(LogitsProcessor, "__init__", patched_init)
    monkeypatch.setattr(LogitsProcessor, "_get_logits", patched_get_logits)
    return LogitsProcessor


@pytest.mark.parametrize(
    "option", [RECORDED["additional_config"], {"isologit": {}}, {}], ids=["prime-rl's", "isologit's", "none"]
)
def test_its_own_product_gives_way(patched, option):
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    with set_current_vllm_config(VllmConfig(additional_config=option)):
        layer = patched(64)
    generator = torch.Generator().manual_seed(5)
    hidden, weight = (torch.randn(n, 512, generator=generator).bfloat16() for n in (1, 64))
    method = UnquantizedEmbeddingMethod()
    head = types.SimpleNamespace(quant_method=method, weight=weight, num_embeddings_per_partition=64)
    right = expected.logits(hidden[0].float().numpy(), weight.float().numpy())
    f32 = hidden.float() @ weight.float().T
    assert expected.bits(f32[0]) != expected.bits(right)
    if option:
        assert expected.bits(layer._get_logits(hidden, head, None, True)[0]) == expected.bits(right)
    else:
        assert not layer.isologit and getattr(layer, RECORDED["flag"]) is False


if CHECKOUT:

    def test_the_recorded_configuration():
        sys.path.insert(0, f"{CHECKOUT}/packages/prime-rl-configs/src")
        from prime_rl.configs.inference import InferenceConfig

        config = InferenceConfig(vllm={"model": "any"})
        namespace = config.to_namespace()
        assert config.enable_fp32_lm_head is RECORDED["enable_fp32_lm_head"]
        assert namespace.additional_config == RECORDED["additional_config"]
        assert namespace.logprobs_mode == RECORDED["logprobs_mode"]
        own = InferenceConfig(vllm={"model": "any", "additional_config": {"isologit": {}}}, enable_fp32_lm_head=False)
        assert own.to_namespace().additional_config == {"isologit": {}, "fp32_router_logits": True}

    def test_the_recorded_patch():
        source = Path(CHECKOUT, "src/prime_rl/inference/patches.py").read_text()
        (patch,) = [
            node
            for node in ast.parse(source).body
            if isinstance(node, ast.FunctionDef) and node.name == "monkey_patch_fp32_lm_head"
        ]
        inner = {node.name: node for node in patch.body if isinstance(node, ast.FunctionDef)}
        arguments = [argument.arg for argument in inner["_patched_get_logits"].args.args]
        assert " ".join(arguments) == RECORDED["_get_logits"]
        assert f"self.{RECORDED['flag']} = " in ast.unparse(inner["_patched_init"])
