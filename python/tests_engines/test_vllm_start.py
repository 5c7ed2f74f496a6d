"""The option, and the check at the start that stops an engine in which it would not be in force."""

import json
import os
import types

import pytest
import torch
from recording import Recording
from vllm import SamplingParams
from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from isologit.integrations import vllm as plugin
from isologit.integrations.vllm import _processors, _settings


@pytest.mark.parametrize(
    ("additional_config", "settings"),
    [
        ({}, None),
        (object(), None),
        ({"fp32_lm_head": False}, None),
        ({"fp32_lm_head": True}, _settings.Settings()),
        ({"isologit": {}}, _settings.Settings()),
        ({"isologit": {"arithmetic": "fast"}}, _settings.Settings(arithmetic="fast")),
        ({"isologit": {"logprobs": "engine", "threads": 3}}, _settings.Settings(logprobs="engine", threads=3)),
        ({"isologit": {"draws": "contract"}}, _settings.Settings(draws="contract")),
        ({"isologit": {"arithmetic": "fast"}, "fp32_lm_head": True}, _settings.Settings(arithmetic="fast")),
    ],
)
def test_settings(additional_config, settings):
    assert _settings.read(additional_config) == settings


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (True, "is True; expected an object"),
        (None, "is None; expected an object"),
        ({"arithmetics": "exact"}, "has the key 'arithmetics'; expected arithmetic, logprobs, draws, scope, threads"),
        ({"arithmetic": "f32"}, "arithmetic is 'f32'; expected 'exact' or 'fast'"),
        ({"logprobs": ["exact"]}, "logprobs is \\['exact'\\]; expected 'exact' or 'engine'"),
        ({"draws": "exact"}, "draws is 'exact'; expected 'engine' or 'contract'"),
        ({"threads": -1}, "threads is -1; expected a whole number"),
        ({"threads": True}, "threads is True; expected a whole number"),
    ],
)
def test_settings_that_are_wrong(option, message):
    with pytest.raises(ValueError, match=message):
        _settings.read({"isologit": option})


@pytest.mark.parametrize(
    ("variable", "value", "processors"),
    [
        ("OMP_PLACES", "{0,1,5}", {0, 1, 5}),
        ("GOMP_CPU_AFFINITY", "4 5 12", {4, 5, 12}),
        ("KMP_AFFINITY", "granularity=fine,explicit,proclist=[2,3]", {2, 3}),
    ],
)
def test_the_binding_of_the_engine(monkeypatch, variable, value, processors):
    monkeypatch.setenv(variable, value)
    assert _processors.bound() == processors


def test_without_a_binding_the_processors_are_those_of_the_thread(monkeypatch):
    for name in ("OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"):
        monkeypatch.delenv(name, raising=False)
    assert _processors.bound() == os.sched_getaffinity(0)


def test_register_again_changes_nothing():
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    plugin.register()
    before = op_registry_oot["LogitsProcessor"], WorkerWrapperBase.initialize_from_config
    plugin.register()
    assert before == (op_registry_oot["LogitsProcessor"], WorkerWrapperBase.initialize_from_config)


def greedy(engine, recording):
    with recording:
        prompts = [{"prompt_token_ids": [5, 6, 7]}, {"prompt_token_ids": [9]}]
        return engine.generate(prompts, SamplingParams(max_tokens=3, temperature=0, logprobs=4), use_tqdm=False)


def test_without_the_option_the_engine_is_as_it_was(start, model, tmp_path, monkeypatch):
    engine = start(model, None)
    assert engine.collective_rpc("isologit_state")[0]["on"] is False
    ours = greedy(engine, Recording(engine, tmp_path))
    monkeypatch.delitem(op_registry_oot, "LogitsProcessor")
    engine = start(model, None)
    layer = engine.llm_engine.model_executor.driver_worker.worker.get_model().logits_processor
    assert type(layer) is LogitsProcessor
    theirs = greedy(engine, Recording(engine, tmp_path))
    assert [out.outputs[0].logprobs for out in ours] == [out.outputs[0].logprobs for out in theirs]


def test_a_class_of_someone_else(start, model, monkeypatch):
    class Foreign(LogitsProcessor):
        pass

    monkeypatch.setitem(op_registry_oot, "LogitsProcessor", Foreign)
    with pytest.raises(RuntimeError, match=r"in vLLM 0\.32.*asks for.*Foreign, registered or derived by someone else"):
        start(model, {"isologit": {}})


def test_a_way_around_the_hook(start, model, monkeypatch):
    def around(self, hidden_states, lm_head, embedding_bias, skip_gather=False):
        return torch.nn.functional.linear(hidden_states.float(), lm_head.weight.float())

    monkeypatch.setattr(LogitsProcessor, "_get_logits", around)
    with pytest.raises(RuntimeError, match=r"does not call it \(LogitsProcessor\._get_logits is test_vllm_start"):
        start(model, {"isologit": {}})


def test_an_unknown_key_stops_the_engine(start, model):
    with pytest.raises(ValueError, match="has the key 'draw'"):
        start(model, {"isologit": {"draw": "contract"}})


@pytest.mark.parametrize("is_v2", [False, True])
def test_drafts_that_are_accepted_whatever_is_drawn(start, model, is_v2, monkeypatch):
    from isologit.integrations.vllm import _start

    monkeypatch.setattr(_start, "get_pp_group", lambda: types.SimpleNamespace(is_last_rank=True))
    speculative = types.SimpleNamespace(rejection_sample_method="synthetic")
    config = types.SimpleNamespace(speculative_config=speculative)
    worker = types.SimpleNamespace(vllm_config=config, model_runner=None)
    with pytest.raises(RuntimeError, match=r'accepted at synthetic rates.*rejection_sample_method to "standard"'):
        _start._put_draws_in_place(worker, is_v2, 0, frozenset({0}))


@pytest.fixture
def layer(start):
    from isologit.integrations.vllm._head import IsologitLogitsProcessor

    layer = torch.nn.Module.__new__(IsologitLogitsProcessor)
    torch.nn.Module.__init__(layer)
    layer.isologit, layer.isologit_calls, layer.isologit_processors = _settings.Settings(), 0, _processors.bound()
    layer.isologit_softcap, layer.isologit_rows, layer.isologit_gathers = None, 0, True
    return layer


def test_the_fast_arithmetic(layer):
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    import isologit

    layer.isologit = _settings.Settings(arithmetic="fast")
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(n, 512, generator=generator).bfloat16() for n in (3, 4096))
    head = types.SimpleNamespace(
        quant_method=UnquantizedEmbeddingMethod(), weight=weight, num_embeddings_per_partition=4096
    )
    fast = isologit.logits(hidden, weight, arithmetic="fast")
    assert torch.equal(layer._apply_head(head, hidden, None), fast)
    assert not torch.equal(fast, isologit.logits(hidden, weight))


def test_the_processors_of_the_engine_are_handed_on(layer, monkeypatch):
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    import isologit

    everywhere = os.sched_getaffinity(0)
    layer.isologit_processors = frozenset(everywhere)
    seen = []
    logits = isologit.logits
    monkeypatch.setattr(isologit, "logits", lambda *given, **options: seen.append(options) or logits(*given, **options))
    head = types.SimpleNamespace(
        quant_method=UnquantizedEmbeddingMethod(), weight=torch.ones(64, 8), num_embeddings_per_partition=64
    )
    one = {min(everywhere)}
    os.sched_setaffinity(0, one)
    try:
        layer._apply_head(head, torch.ones(2, 8), None)
        assert os.sched_getaffinity(0) == one
    finally:
        os.sched_setaffinity(0, everywhere)
    assert seen[0]["processors"] == everywhere


def test_a_quantised_head_is_refused(layer):
    class Gptq:
        pass

    head = types.SimpleNamespace(quant_method=Gptq(), weight=torch.zeros(4, 8), num_embeddings_per_partition=4)
    with pytest.raises(ValueError, match="method is .*Gptq; expected an unquantised head"):
        layer._apply_head(head, torch.zeros(1, 8), None)


def test_an_emptied_weight_is_refused(layer):
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    method = UnquantizedLinearMethod.__new__(UnquantizedLinearMethod)
    head = types.SimpleNamespace(quant_method=method, weight=torch.zeros(0), num_embeddings_per_partition=4)
    with pytest.raises(ValueError, match=r"weight is \[0\]; expected 4 rows"):
        layer._apply_head(head, torch.zeros(1, 8), None)


def test_an_engine_with_a_quantised_head_is_refused(start, model, tmp_path):
    """By GPTQ, which vLLM's CPU build runs; vLLM fills in random weights."""
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True, "lm_head": True}
    config = json.loads((model / "config.json").read_text())
    config |= {"tie_word_embeddings": False, "quantization_config": gptq}
    (tmp_path / "config.json").write_text(json.dumps(config))
    random = {"load_format": "dummy", "skip_tokenizer_init": True}
    assert start(tmp_path, None, **random).collective_rpc("isologit_state")[0]["on"] is False
    with pytest.raises(
        ValueError, match=r"quantisation method is .*AutoGPTQLinearMethod; expected an unquantised head"
    ):
        start(tmp_path, {"isologit": {}}, **random)


GPT_J = {
    "architectures": ["GPTJForCausalLM"], "model_type": "gptj", "dtype": "bfloat16", "vocab_size": 1000,
    "n_embd": 128, "n_layer": 1, "n_head": 4, "rotary_dim": 32, "n_positions": 256, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def test_a_bias_and_rows_of_padding(start, tmp_path):
    """The head of GPT-J has a bias; 1000 rows are padded to 1024. vLLM fills in random weights."""
    import expected

    (tmp_path / "config.json").write_text(json.dumps(GPT_J))
    option = {"isologit": {"logprobs": "engine", "threads": 1}}
    engine = start(tmp_path, option, load_format="dummy", skip_tokenizer_init=True)
    state = engine.collective_rpc("isologit_state")[0]
    assert (state["logprobs"], state["threads"]) == ("engine", 1)
    recording = Recording(engine, tmp_path)
    greedy(engine, recording)
    head = engine.llm_engine.model_executor.driver_worker.worker.get_model().lm_head
    weight, bias = head.weight.float().numpy(), head.bias.float().numpy()
    assert weight.shape[0] == 1024 and abs(bias[:1000]).max() > 0
    for step in recording.steps:
        right = expected.logits(step["hidden"][0].float().numpy(), weight[:1000], bias)
        assert expected.bits(step["logits"][0]) == expected.bits(right)
