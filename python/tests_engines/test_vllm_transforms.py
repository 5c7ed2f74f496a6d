"""Soft caps and scales: the hook gives vLLM exact logits as they are, and the model's own code transforms them in its
own order, which differs between vLLM's ways to logits."""

import json
import types

import expected
import pytest
import torch
from recording import Recording
from vllm import SamplingParams

CAP, SCALE = 0.5, 3.0
VOCAB = 64


@pytest.fixture(scope="module")
def layer():
    """With a cap and a scale."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    from isologit.integrations import vllm as plugin

    plugin.register()
    with set_current_vllm_config(VllmConfig(additional_config={"isologit": {}})):
        layer = LogitsProcessor(VOCAB, scale=SCALE, soft_cap=CAP)
    assert layer.isologit
    return layer


@pytest.fixture(scope="module")
def hidden():
    return 0.1 * torch.randn(5, 128, generator=torch.Generator().manual_seed(7)).bfloat16()


@pytest.fixture(scope="module")
def head():
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    weight = 0.3 * torch.randn(VOCAB, 128, generator=torch.Generator().manual_seed(8)).bfloat16()
    whole = types.SimpleNamespace(num_org_vocab_padding=0, org_vocab_start_index=0)
    method = UnquantizedEmbeddingMethod()
    return types.SimpleNamespace(
        weight=weight, quant_method=method, num_embeddings_per_partition=VOCAB, tp_size=1, shard_indices=whole
    )


@pytest.fixture(scope="module")
def exact(hidden, head):
    rows = [expected.logits(row, head.weight.float().numpy()) for row in hidden.float().numpy()]
    return torch.stack([torch.from_numpy(row) for row in rows])


def capped(z):
    return torch.tanh(z / CAP) * CAP


def test_cap_then_scale(layer, head, hidden, exact):
    logits = layer(head, hidden)
    assert expected.bits(logits) == expected.bits(capped(exact) * SCALE)
    assert expected.bits(logits) != expected.bits(capped(exact * SCALE))


def test_the_top_token(layer, head, hidden, exact):
    assert layer.get_top_tokens(head, hidden).tolist() == exact.argmax(-1).tolist()


def test_the_top_k_scale_then_cap(layer, head, hidden, exact):
    ids, values = layer.get_top_k_tokens(head, hidden, 4)
    top = exact.topk(4)
    assert ids.tolist() == top.indices.tolist()
    assert expected.bits(values) == expected.bits(capped(top.values * SCALE))
    assert expected.bits(values) != expected.bits(capped(top.values) * SCALE)


def test_the_top_k_with_logprobs_cap_then_scale(layer, head, hidden, exact):
    _, values = layer.get_top_k_tokens(head, hidden, 4, return_log_probs=True)
    logits = capped(exact) * SCALE
    assert expected.bits(values) == expected.bits(logits.topk(4).values - logits.logsumexp(-1, keepdim=True))


COMMON = {
    "dtype": "bfloat16", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MODELS = {
    "a cap": (
        {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "final_logit_softcapping": 0.01},
        lambda z: torch.tanh(z / 0.01) * 0.01,
    ),
    "a scale": (
        {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "logits_scaling": 0.07},
        lambda z: z * (1 / 0.07),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model(start, tmp_path, name):
    """vLLM fills in random weights."""
    own, transform = MODELS[name]
    (tmp_path / "config.json").write_text(json.dumps(COMMON | own))
    engine = start(tmp_path, {"isologit": {}}, load_format="dummy", skip_tokenizer_init=True)
    recording = Recording(engine, tmp_path)
    prompts = [{"prompt_token_ids": [5, 6, 7]}, {"prompt_token_ids": [9]}]
    with recording:
        outputs = engine.generate(prompts, SamplingParams(max_tokens=3, temperature=0, logprobs=4), use_tqdm=False)
    weight = recording.weight.float().numpy()
    for step in recording.steps:
        rows = [torch.from_numpy(expected.logits(row, weight[:300])) for row in step["hidden"].float().numpy()]
        exact = torch.stack(rows)  # of the shape that vLLM has: torch's tanh may depend on the place in a tensor
        assert expected.bits(step["logits"]) == expected.bits(transform(exact)) != expected.bits(exact)
    for output in outputs:
        completion = output.outputs[0]
        rows = recording.rows(output, completion, "logits")
        for (hidden, logits), returned in zip(rows, completion.logprobs, strict=True):
            assert recording.wrong_of_row(hidden, logits, returned, False) == []
