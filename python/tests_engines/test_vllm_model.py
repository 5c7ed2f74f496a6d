"""scope "model": what vLLM returns is what Transformers computes, bit for bit, in every family, however it is served.

Both sides run isologit.forward, so this shows that they put the operators together alike, over pages, chunks, caches
and batches; that each operator is right is shown against the oracle.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from vllm import SamplingParams, TokensPrompt
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.fused_moe.activation import MoEActivation

from isologit import hf
from isologit.integrations.vllm import _experts

transformers = pytest.importorskip("transformers")

COMMON = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS = {
    "gemma2": ("Gemma2Config", {"sliding_window": 9, "query_pre_attn_scalar": 32}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 9, "query_pre_attn_scalar": 32}),
    "gpt_oss": (
        "GptOssConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 9,
            "swiglu_limit": 1.5,
            "rope_parameters": YARN | {"beta_fast": 4.0, "beta_slow": 1.0, "truncate": False},
        },
    ),
    "llama": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", {"sliding_window": 9}),
    "olmo2": ("Olmo2Config", {"hidden_size": 128, "tie_word_embeddings": False, "rope_parameters": YARN}),
    "phi3": ("Phi3Config", {"hidden_size": 128, "partial_rotary_factor": 0.5}),
    "qwen2": ("Qwen2Config", {"hidden_size": 128, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {
            "moe_intermediate_size": 32,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
            "rope_parameters": YARN | {"attention_factor": 1.25},
        },
    ),
}
ON = {"isologit": {"scope": "model"}}
SERVED = {
    "enable_prefix_caching": True,
    "enable_chunked_prefill": True,
    "long_prefill_token_threshold": 24,
    "max_num_batched_tokens": 320,
    "max_num_seqs": 300,
    "block_size": 32,
}


def built(config):
    """A class of Transformers by which vLLM has run a model in this process is changed: it wants vLLM's config."""
    engines = VllmConfig()
    object.__setattr__(engines, "model_config", SimpleNamespace(hf_config=config))
    with set_current_vllm_config(engines):
        model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.base_model.do_not_compile = True
    return model


def make(name, folder):
    config_name, own = CONFIGS[name]
    torch.manual_seed(0)
    model = built(getattr(transformers, config_name)(**{**COMMON, **own})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model


def prompts():
    """Two that share a long beginning, a long one and short ones."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randint(3, 300, (70,), generator=generator).tolist()
    short = [torch.randint(3, 300, (n,), generator=generator).tolist() for n in (1, 5, 17)]
    return [shared + [5, 6], shared + [7], *short]


def recomputed(model, output):
    """The logprobs of the tokens that were drawn, all at once."""
    prompt, drawn = list(output.prompt_token_ids), list(output.outputs[0].token_ids)
    ids = torch.tensor([prompt + drawn])
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1]
        return model.get_output_embeddings().logprobs(hidden, torch.tensor(drawn)).logprobs.float()


def reported(output):
    tokens = zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True)
    return torch.tensor([logprobs[token].logprob for token, logprobs in tokens])


@pytest.fixture(scope="module", params=CONFIGS)
def both(request, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = make(request.param, folder)
    exact = copy.deepcopy(model)
    hf.install(exact, scope="model")
    return start(folder, ON, skip_tokenizer_init=True, **SERVED), exact, model


def test_the_same_bits(both):
    engine, exact, _ = both
    (state,) = engine.collective_rpc("isologit_state")
    assert state["scope"] == "model"
    asked = [TokensPrompt(prompt_token_ids=ids) for ids in prompts()]
    params = SamplingParams(temperature=1.0, max_tokens=12, logprobs=0, ignore_eos=True, detokenize=False)
    batched = engine.generate(asked, params, use_tqdm=False)
    again = [
        engine.generate([prompt], params, use_tqdm=False)[0] for prompt in asked[:2]
    ]  # alone, from a cached prefix
    for output in (*batched, *again):
        assert torch.equal(reported(output), recomputed(exact, output))


def test_three_hundred_rows_in_one_step(both):
    engine, exact, _ = both
    ids = torch.randint(3, 300, (300, 1), generator=torch.Generator().manual_seed(2))
    params = SamplingParams(temperature=1.0, max_tokens=3, logprobs=0, ignore_eos=True, detokenize=False)
    asked = [TokensPrompt(prompt_token_ids=row) for row in ids.tolist()]
    before = engine.collective_rpc("isologit_state")[0]
    outputs = engine.generate(asked, params, use_tqdm=False)
    after = engine.collective_rpc("isologit_state")[0]
    assert (after["calls"] - before["calls"], after["rows"] - before["rows"]) == (3, 900)
    drawn = torch.tensor([output.outputs[0].token_ids for output in outputs])
    with torch.no_grad():
        hidden = exact.base_model(input_ids=torch.cat([ids, drawn[:, :-1]], 1), use_cache=False).last_hidden_state
        right = exact.get_output_embeddings().logprobs(hidden, drawn).logprobs.float()
    assert torch.equal(torch.stack([reported(output) for output in outputs]), right)


def test_many_samplers_at_once(both):
    """Logprobs are those of the model's logits, whatever the requests beside it ask of theirs."""
    engine, exact, _ = both
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, 300, (1 + n % 6,), generator=generator).tolist() for n in range(44)]
    kinds = [
        {"temperature": 0.7, "top_p": 0.8},
        {"temperature": 1.3, "top_k": 7, "seed": 5},
        {"temperature": 0.0},
        {"temperature": 1.0, "min_p": 0.02, "presence_penalty": 0.5, "repetition_penalty": 1.2},
    ]
    params = [
        SamplingParams(max_tokens=3 + n % 5, logprobs=n % 3, ignore_eos=True, detokenize=False, **kinds[n % 4])
        for n in range(44)
    ]
    outputs = engine.generate([TokensPrompt(prompt_token_ids=row) for row in ids], params, use_tqdm=False)
    for output in outputs:
        assert torch.equal(reported(output), recomputed(exact, output))


def test_stock_differs(both):
    """What is compared is not so coarse that stock models would agree too."""
    engine, _, model = both
    params = SamplingParams(temperature=1.0, max_tokens=12, logprobs=0, ignore_eos=True, detokenize=False)
    (output,) = engine.generate([TokensPrompt(prompt_token_ids=prompts()[2])], params, use_tqdm=False)
    stock = copy.deepcopy(model)
    hf.install(stock)
    assert not torch.equal(reported(output), recomputed(stock, output))


@pytest.mark.parametrize("name, ranks", [("qwen3", 2), ("qwen3", 4), ("olmo2", 2), ("qwen3_moe", 2), ("gpt_oss", 2)])
def test_ranks(start, tmp_path, name, ranks):
    model = make(name, tmp_path)
    hf.install(model, scope="model")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "|".join(str(rank % 2) for rank in range(ranks)))
        split = {"tensor_parallel_size": ranks, "distributed_executor_backend": "mp"}
        split |= {"enable_expert_parallel": True} if name in ("qwen3_moe", "gpt_oss") else {}
        engine = start(tmp_path, {"isologit": {"scope": "model", "threads": 1}}, skip_tokenizer_init=True, **split)
        assert [state["scope"] for state in engine.collective_rpc("isologit_state")] == ["model"] * ranks
        asked = [TokensPrompt(prompt_token_ids=ids) for ids in prompts()]
        params = SamplingParams(temperature=1.0, max_tokens=6, logprobs=0, ignore_eos=True, detokenize=False)
        for output in engine.generate(asked, params, use_tqdm=False):
            assert torch.equal(reported(output), recomputed(model, output))


def test_preemption(start, tmp_path, preempted_in):
    """Blocks for a few requests only: of some the cache is dropped, and computed again with what they have drawn."""
    model = make("qwen3", tmp_path)
    hf.install(model, scope="model")
    engine = start(tmp_path, ON, skip_tokenizer_init=True, block_size=32, num_gpu_blocks_override=12)
    preempted = preempted_in(engine)
    params = SamplingParams(temperature=1.0, max_tokens=60, logprobs=0, ignore_eos=True, detokenize=False)
    outputs = engine.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts()], params, use_tqdm=False)
    assert preempted
    for output in outputs:
        assert torch.equal(reported(output), recomputed(model, output))


def test_experts_that_are_not_known_are_refused():
    def unknown(**changes):
        ranks = {"dp_size": 1, "tp_size": 1, "enable_eplb": False, "is_sequence_parallel": False}
        given = {"shared_experts": None, "routed_scaling_factor": 1.0, "activation": MoEActivation.SILU, **changes}
        method = object.__new__(_experts.ExactExpertsMethod)
        return _experts.unknown(
            SimpleNamespace(
                routed_experts=SimpleNamespace(quant_method=method, activation=given["activation"]),
                moe_config=SimpleNamespace(
                    moe_parallel_config=SimpleNamespace(**{name: given.get(name, ranks[name]) for name in ranks})
                ),
                shared_experts=given["shared_experts"],
                routed_scaling_factor=given["routed_scaling_factor"],
            )
        )

    assert unknown() == ""
    assert "set enable_expert_parallel" in unknown(tp_size=2)
    assert "is balanced over ranks" in unknown(dp_size=2) and "is balanced over ranks" in unknown(enable_eplb=True)
    assert "has shared experts" in unknown(shared_experts=object())
    assert "gates by gelu" in unknown(activation=MoEActivation.GELU)


GPT2 = {"vocab_size": 300, "n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 256}


@pytest.mark.parametrize(
    "config, own, named",
    [
        ("GPT2Config", GPT2, "GPT2LMHeadModel"),
        ("OlmoConfig", COMMON, "TransformersForCausalLM with model_type 'olmo'"),
    ],
)
def test_what_is_not_known_is_refused(start, tmp_path, config, own, named):
    built(getattr(transformers, config)(**own)).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=f'"scope" is "model", and the body of {named} is not known'):
        start(tmp_path, ON, skip_tokenizer_init=True)


def test_an_unknown_gate_of_transformers_code_is_refused(start, tmp_path):
    built(transformers.Olmo2Config(**{**COMMON, "hidden_act": "tanh"})).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mlp.act_fn is .*Tanh, which is not known"):
        start(tmp_path, ON, skip_tokenizer_init=True)


def test_a_dynamic_rotary_is_refused(start, tmp_path):
    scaling = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    config = transformers.LlamaConfig(**{**COMMON, "rope_parameters": scaling})
    transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="rotary_emb is .*DynamicNTKScalingRotaryEmbedding, which is not known"):
        start(tmp_path, ON, skip_tokenizer_init=True)
