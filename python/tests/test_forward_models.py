"""Whole models: small ones of every family by Transformers, whose hidden states no batch, cache or padding changes."""

import expected
import expected_forward
import pytest
import torch

transformers = pytest.importorskip("transformers")

from isologit import hf  # noqa: E402

COMMON = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
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
    "llama": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", {"sliding_window": 5}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0}}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {
            "moe_intermediate_size": 24,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
            "rope_parameters": YARN,
        },
    ),
    "gpt_oss": (
        "GptOssConfig",
        {
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "sliding_window": 5,
            "swiglu_limit": 1.5,
            "rope_parameters": YARN | {"truncate": False, "beta_fast": 4.0},
        },
    ),
    "gemma2": ("Gemma2Config", {"sliding_window": 5, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 5, "query_pre_attn_scalar": 8}),
    "phi3": ("Phi3Config", {"partial_rotary_factor": 0.5}),
    "olmo2": ("Olmo2Config", {}),
}


def model_of(name: str, dtype: torch.dtype = torch.bfloat16, **changes):
    config_name, own = CONFIGS[name]
    config = getattr(transformers, config_name)(**{**COMMON, **own, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():  # norms' weights are all alike at first, which would hide a wrong place
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def hidden(model, ids, **options):
    with torch.no_grad():
        return model.base_model(input_ids=ids, use_cache=False, **options).last_hidden_state


@pytest.fixture(params=CONFIGS)
def family(request):
    return request.param


def test_stock_is_near(family):
    """No other function: in f32 the model is the stock one but for rounding."""
    model = model_of(family, torch.float32)
    ids = torch.randint(3, 50, (2, 12))
    stock = hidden(model, ids)
    hf.install(model, scope="model")
    exact = hidden(model, ids)
    assert not torch.equal(stock, exact)
    assert (stock - exact).abs().max() < 2e-5 * stock.abs().max()
    hf.uninstall(model)
    assert torch.equal(hidden(model, ids), stock)


def test_no_batch_cache_or_padding_shows(family):
    model = model_of(family)
    hf.install(model, scope="model")
    ids = torch.randint(3, 50, (3, 14))
    whole = hidden(model, ids)
    for row in range(3):
        assert torch.equal(hidden(model, ids[row : row + 1]), whole[row : row + 1])
    for chunk in (1, 5):  # with a cache
        cache, seen = None, []
        for begin in range(0, 14, chunk):
            with torch.no_grad():
                out = model.base_model(input_ids=ids[:, begin : begin + chunk], cache=cache, use_cache=True)
            cache = out.cache
            seen.append(out.last_hidden_state)
        assert torch.equal(torch.cat(seen, 1), whole), chunk
    padding = torch.zeros(3, 4, dtype=torch.int64)
    places = torch.arange(14)
    for side in ("left", "right"):
        parts = (padding, ids) if side == "left" else (ids, padding)
        masks = [torch.zeros_like(padding), torch.ones_like(ids)]
        positions = torch.cat([torch.zeros(4, dtype=torch.int64), places] if side == "left" else [places, places[:4]])
        mask = torch.cat(masks if side == "left" else masks[::-1], 1)
        padded = hidden(model, torch.cat(parts, 1), attention_mask=mask, position_ids=positions[None].expand(3, -1))
        assert torch.equal(padded[:, 4:] if side == "left" else padded[:, :14], whole), side
    packed = hidden(model, ids[:2].reshape(1, 28), position_ids=torch.cat([places, places])[None])
    assert torch.equal(packed.reshape(2, 14, -1), whole[:2])
    torch.set_num_threads(1)
    assert torch.equal(hidden(model, ids), whole)


def test_qwen3_by_the_contract():
    """Every hidden value of a small model, against the contract by mpmath, operator after operator."""
    model = model_of("qwen3", num_hidden_layers=2, hidden_size=16, intermediate_size=24)
    config = model.config
    hf.install(model, scope="model")
    ids = torch.tensor([[7, 3, 3, 41]])
    found = hidden(model, ids)[0]

    def linear(x, module):
        return expected.logits(x, module.weight.detach(), dtype=x.dtype)

    def norm(x, module):
        return expected_forward.rms_norm(x, module.weight.detach(), module.variance_epsilon)

    frequencies = expected_forward.frequencies(1e6, 8, 4.0)
    x = model.model.embed_tokens.weight.detach()[ids[0]]
    places = torch.arange(4)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        inner = norm(x, layer.input_layernorm)
        q = norm(linear(inner, attention.q_proj).view(4, 4, 8), attention.q_norm)
        k = norm(linear(inner, attention.k_proj).view(4, 2, 8), attention.k_norm)
        v = linear(inner, attention.v_proj).view(4, 2, 8)
        q, k = (expected_forward.rotary(t, places, frequencies, "halves") for t in (q, k))
        heads = expected_forward.attention(q, k, v, lambda i: range(i + 1), config.head_dim**-0.5)
        x = added(x, linear(heads.reshape(4, 32), attention.o_proj))
        inner = norm(x, layer.post_attention_layernorm)
        x = added(
            x, linear(expected_forward.silu(linear(inner, mlp.gate_proj), linear(inner, mlp.up_proj)), mlp.down_proj)
        )
    assert torch.equal(found, norm(x, model.model.norm))


def added(x, y):
    sums = (x.double() + y.double()).reshape(-1).tolist()  # exact: both have 8 bits, of like size
    return torch.tensor([expected.round_once(expected.Fraction(s), x.dtype) for s in sums]).to(x.dtype).reshape(x.shape)


def test_generate_agrees_with_prefill(family):
    model = model_of(family)
    hf.install(model, scope="model")
    ids = torch.randint(3, 50, (2, 6))
    out = model.generate(
        ids, max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True, eos_token_id=None
    )
    logits = torch.stack(out.logits, 1)
    with torch.no_grad():
        full = model(out.sequences).logits[:, 5:-1]
    assert torch.equal(full.float(), logits.float())


def test_a_batch_with_padding_generates_what_its_rows_do(family):
    model = model_of(family)
    hf.install(model, scope="model")
    ids, padding = torch.randint(3, 50, (2, 6)), torch.zeros(2, 3, dtype=torch.int64)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    mask = torch.cat([padding, torch.ones_like(ids)], 1)
    batch = model.generate(torch.cat([padding, ids], 1), attention_mask=mask, **options)
    for row in range(2):
        assert torch.equal(model.generate(ids[row : row + 1], **options)[0], batch[row, 3:])


def test_what_a_cache_does_not_hold_yet_is_refused():
    model = model_of("qwen3")
    hf.install(model, scope="model")
    with pytest.raises(NotImplementedError, match="a cache that is as long as its tokens"):
        model.generate(torch.randint(3, 50, (1, 6)), max_new_tokens=2, cache_implementation="static")


def test_resizing_keeps_the_body():
    model = model_of("qwen3")
    hf.install(model, scope="model")
    ids = torch.randint(3, 50, (1, 9))
    whole = hidden(model, ids)
    model.resize_token_embeddings(60)
    assert torch.equal(hidden(model, ids), whole)
    hf.uninstall(model)
    assert type(model.model.norm).__module__.startswith("transformers.") and model.config._attn_implementation == "sdpa"


def test_what_is_not_known_is_refused():
    bloom = transformers.AutoModelForCausalLM.from_config(
        transformers.BloomConfig(vocab_size=50, hidden_size=32, n_layer=1, n_head=4)
    )
    with pytest.raises(NotImplementedError, match="model_type is 'bloom'"):
        hf.install(bloom, scope="model")
    model = model_of("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(NotImplementedError, match="rope_type is 'dynamic'"):
        hf.install(model, scope="model")
    model = model_of("llama")
    model.model.layers[1].mlp.act_fn = torch.nn.ReLU()
    with pytest.raises(NotImplementedError, match=r"model.layers.1.mlp.act_fn: torch.*ReLU is not known"):
        hf.install(model, scope="model")
    assert isinstance(model.get_output_embeddings(), torch.nn.Linear)
    assert type(model.model.norm).__module__.startswith("transformers.")
    with pytest.raises(ValueError, match="scope is 'body'"):
        hf.install(model_of("llama"), scope="body")


def test_adapters_in_the_body_are_refused():
    peft = pytest.importorskip("peft")
    model = model_of("qwen3")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["up_proj"]))
    for outer in (adapted, adapted.get_base_model()):
        with pytest.raises(NotImplementedError, match=r"peft\.\S+ is not known as a part of 'qwen3'"):
            hf.install(outer, scope="model")
        assert type(model.model.norm).__module__.startswith("transformers.")
        assert type(model.get_output_embeddings()) is torch.nn.Linear
    for target in ("up_proj", "o_proj"):
        model = model_of("qwen3")
        hf.install(model, scope="model")
        late = peft.get_peft_model(model, peft.LoraConfig(target_modules=[target]))
        with pytest.raises(NotImplementedError, match=rf"{target} of a Qwen3\w+ is a peft\.\S+ since isologit"):
            late(torch.arange(4)[None])
