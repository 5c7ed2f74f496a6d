"""The head in models of Transformers: tiny, with random weights."""

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import expected  # noqa: E402
from expected import same_bits  # noqa: E402
from torch import nn  # noqa: E402

import isologit  # noqa: E402
import isologit.hf  # noqa: E402

VOCAB = 61
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "Qwen3": ({}, {}),
    "Llama": ({}, {}),
    "Gemma2": ({"final_logit_softcapping": 2.0}, {"softcap": 2.0}),
    "Gemma3": ({"final_logit_softcapping": 3.0}, {"softcap": 3.0}),
    "Cohere": ({"logit_scale": 0.25}, {"scale": 0.25}),
    "Granite": ({"logits_scaling": 4.0}, {"divide": 4.0}),
}
TRANSFORMS = {
    "softcap": lambda z, c: c * torch.tanh(z / c),
    "scale": lambda z, s: z * s,
    "divide": lambda z, d: z / d,
}
IDS = torch.tensor([[3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14]])


def tiny(family, tied, dtype=torch.bfloat16):
    options, _ = FAMILIES[family]
    prefix = "Gemma3Text" if family == "Gemma3" else family
    torch.manual_seed(11)
    config = getattr(transformers, f"{prefix}Config")(**SIZES, **options, tie_word_embeddings=tied)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():  # logits that a softcap bends
        model.get_output_embeddings().weight.normal_(std=0.7)
    return model.to(dtype)


def body(model, ids=IDS):
    with torch.no_grad():
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_install_and_uninstall(family, tied):
    model = tiny(family, tied)
    former, weight, keys = model.lm_head, model.lm_head.weight, list(model.state_dict())
    assert (weight is model.get_input_embeddings().weight) == tied
    with torch.no_grad():
        before = model(IDS).logits

    head = isologit.hf.install(model)
    assert model.lm_head is head and head.weight is weight and list(model.state_dict()) == keys
    assert (model.get_input_embeddings().weight is head.weight) == tied
    assert sum(p is weight for p in model.parameters()) == 1
    hidden = body(model)
    with torch.no_grad():
        plain = head(hidden)
        # Without transforms, though the model has some: it applies its own after the head.
        assert plain.dtype == torch.float32
        assert same_bits(plain[0, :2], expected.logits(hidden[0, :2], weight))
        inside = model(IDS).logits
        z = plain.double()
        for what, value in FAMILIES[family][1].items():
            z = TRANSFORMS[what](z, value)
        assert (inside.double() - z).abs().max() <= 4 * z.abs().max() * 2.0**-24
        assert (before.double() - z).abs().max() > 100 * z.abs().max() * 2.0**-24  # the bf16 head is far off

        # The next token's id from each state, shifted by hand; with the transforms.
        got = head.logprobs(hidden[:, :-1], IDS[:, 1:])
        wanted = torch.log_softmax(z, -1)[:, :-1].gather(-1, IDS[:, 1:, None])[..., 0]
        # z was not rounded on its way, the library's logits were, at most three times.
        assert (got.logprobs.double() - wanted).abs().max() <= 8 * z.abs().max() * 2.0**-24
        if FAMILIES[family][1]:
            without = isologit.linear_logprobs(hidden[:, :-1], weight, IDS[:, 1:]).logprobs
            assert (without - got.logprobs).abs().max() > 0.01

    with pytest.raises(ValueError, match="already"):
        isologit.hf.install(model)
    isologit.hf.uninstall(model)
    assert model.lm_head is former and model.lm_head.weight is weight and list(model.state_dict()) == keys
    with torch.no_grad():
        assert same_bits(model(IDS).logits, before)
    with pytest.raises(ValueError, match="expected one that isologit.hf.install has put there"):
        isologit.hf.uninstall(model)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["Qwen3", "Gemma2", "Cohere"])
def test_an_installed_head_trains(family, tied):
    def grads(install, score):
        model = tiny(family, tied, torch.float32)
        if install:
            isologit.hf.install(model)
        score(model).sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    def by_logits(model):
        p = torch.log_softmax(model(IDS).logits[:, :-1], -1)
        return p.gather(-1, IDS[:, 1:, None]) - 0.1 * (p.exp() * p).sum(-1, keepdim=True)

    wanted = grads(False, by_logits)  # all in f32, by torch
    got = grads(True, by_logits)
    assert got.keys() == wanted.keys()
    for name, grad in got.items():
        assert (grad - wanted[name]).abs().max() <= 2e-3 * wanted[name].abs().max() + 1e-6, name


def test_an_installed_head_generates_and_moves_with_the_model():
    model = tiny("Qwen3", True, torch.float32)
    isologit.hf.install(model)
    out = model.generate(IDS[:, :3], max_new_tokens=3, do_sample=False)
    assert out.shape == (2, 6)
    hidden = body(model, out)
    assert torch.equal(model.lm_head(hidden[:, 2:-1]).argmax(-1), out[:, 3:])
    model.to(torch.bfloat16)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.lm_head.weight is model.get_input_embeddings().weight
    weight = model.lm_head.weight
    isologit.hf.uninstall(model)
    assert model.lm_head.weight is weight


def test_padded_rows_are_not_in_the_vocabulary():
    model = tiny("Llama", False)
    model.resize_token_embeddings(64)
    model.config.vocab_size = VOCAB
    head = isologit.hf.install(model)
    hidden = body(model)
    with torch.no_grad():
        z = expected.logits(hidden.flatten(0, 1), head.weight)[:, :VOCAB].reshape(*IDS.shape, VOCAB)
        assert same_bits(head(hidden), z) and same_bits(model(IDS).logits, z)
    wanted = torch.log_softmax(z.double(), -1)[..., 5]
    sure = ~expected.nearly_a_tie(wanted)
    got = head.logprobs(hidden, torch.full_like(IDS, 5)).logprobs
    assert torch.equal(got[sure], wanted.float()[sure])


@pytest.mark.parametrize("tied", [True, False])
def test_resize_after_install(tied):
    model = tiny("Llama", tied, torch.float32)
    head = isologit.hf.install(model)
    model.resize_token_embeddings(70)
    assert model.lm_head is head and head.weight.shape[0] == head.vocab_size == model.config.vocab_size == 70
    assert (head.weight is model.get_input_embeddings().weight) == tied
    hidden = body(model)
    with torch.no_grad():
        z = expected.logits(hidden.flatten(0, 1), head.weight).reshape(*IDS.shape, 70)
        assert same_bits(model(IDS).logits, z)
    assert head.logprobs(hidden, torch.full_like(IDS, 69)).logprobs.isfinite().all()
    copied = copy.deepcopy(model)
    copied.resize_token_embeddings(80)
    assert (copied.lm_head.vocab_size, model.lm_head.vocab_size) == (80, 70)
    isologit.hf.uninstall(model)
    assert type(model.lm_head) is nn.Linear and model.lm_head.weight is head.weight
    model.resize_token_embeddings(90)
    assert type(model.lm_head) is nn.Linear and model.lm_head.weight.shape[0] == 90


def test_what_is_not_known_is_refused():
    config = transformers.LlamaConfig(**SIZES)
    config.logit_scale = 0.5
    with pytest.raises(NotImplementedError, match="logit_scale is 0.5 in a configuration of model_type 'llama'"):
        isologit.hf.transforms(config)
    config.logit_scale = 1.0
    assert isologit.hf.transforms(config) == {}
    muse = transformers.AutoConfig.for_model("muse_glimmer")
    assert isologit.hf.transforms(muse) == {
        "scale": muse.text_config.output_multiplier,
        "softcap": 20.0,
        "transform_order": "scale_first",
    }


class Scaled(nn.Linear):
    def forward(self, hidden):
        return super().forward(hidden) * 2


def hooked(head):
    head.register_forward_hook(lambda module, arguments, output: output * 2)
    return head


def shadowed(head):
    head.forward = lambda hidden: nn.Linear.forward(head, hidden) * 2
    return head


def around(head):
    """As PEFT wraps a module that it trains."""
    wrapper = nn.Module()
    wrapper.base_layer = head
    return wrapper


def scaled(head):
    made = Scaled(head.in_features, head.out_features, bias=False)
    made.weight = head.weight
    return made


HEADS = {
    "head is Identity; expected torch.nn.Linear": lambda head: nn.Identity(),
    "head is Scaled with a forward of its own": scaled,
    "forward of its own, which an LMHead would leave out": shadowed,
    "head has hooks": hooked,
    "an adapter of PEFT around the head": around,
    "as by weight_norm": lambda head: torch.nn.utils.weight_norm(head),
    "head is parametrized": lambda head: torch.nn.utils.parametrizations.weight_norm(head),
    "on the meta device": lambda head: head.to("meta"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("why", HEADS)
def test_heads_that_are_more_than_a_matrix_are_refused(why):
    model = tiny("Llama", False)
    changed = HEADS[why](model.lm_head)
    model.set_output_embeddings(changed)
    with pytest.raises(NotImplementedError, match=why):
        isologit.hf.install(model)
    assert model.get_output_embeddings() is changed


class Doubled(transformers.LlamaForCausalLM):
    def forward(self, *arguments, **named):
        output = super().forward(*arguments, **named)
        output.logits = output.logits * 2
        return output


class Skewed(transformers.LlamaForCausalLM):
    """A head whose weight is not what its matrix multiplies with: nothing that its class tells."""

    def forward(self, *arguments, **named):
        head = self.lm_head
        hook = head.register_forward_pre_hook(lambda module, rows: (rows[0] * 1.001,))
        try:
            return super().forward(*arguments, **named)
        finally:
            hook.remove()


@pytest.mark.parametrize("model_class", [Doubled, Skewed])
def test_last_steps_that_are_not_known_are_refused(model_class):
    model = model_class(transformers.LlamaConfig(**SIZES)).eval()
    former = model.lm_head
    with pytest.raises(NotImplementedError, match=f"{model_class.__name__} makes other logits"):
        isologit.hf.install(model)
    assert model.lm_head is former and "resize_token_embeddings" not in vars(model)


def test_install_leaves_random_numbers_and_modes_as_they_were():
    model = tiny("Llama", False).train()
    model.model.layers[0].eval()
    before = torch.get_rng_state()
    isologit.hf.install(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and model.lm_head.training and not model.model.layers[0].training


def test_a_bias_of_the_logits():
    sizes = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "vocab_size": VOCAB,
    }
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes)).eval()
    isologit.hf.install(model)
    isologit.hf.uninstall(model)
    model.final_logits_bias[0, 3] = 1.0
    with pytest.raises(NotImplementedError, match="final_logits_bias to its logits, which is not zero"):
        isologit.hf.install(model)


def test_a_head_of_ones_own():
    embedding = nn.Embedding(50, 24)
    head = isologit.nn.LMHead(embedding.weight, nn.Parameter(torch.zeros(50)), softcap=5.0, vocab_size=48)
    assert head.weight is embedding.weight and list(head.state_dict()) == ["weight", "bias"]
    assert (head.in_features, head.out_features) == (24, 50) and "softcap=5.0, vocab_size=48" in repr(head)
    with torch.no_grad():
        hidden = torch.randn(2, 24)
        # Rows from vocab_size on are padding.
        assert same_bits(head(hidden), expected.logits(hidden, embedding.weight)[:, :48])


def adapted(tied=False, **options):
    """A model whose head PEFT has wrapped, with b not 0; and that layer."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["lm_head", "q_proj"], **options)
    model = peft.get_peft_model(tiny("Gemma2", tied=tied), config)
    layer = model.get_output_embeddings()
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    return model, layer


def test_a_head_that_peft_has_wrapped_is_one_real_number_with_its_adapter():
    model, layer = adapted()
    names = list(model.state_dict())
    hidden = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    head = isologit.hf.install(model)
    lora = (layer.lora_A["default"].weight, layer.lora_B["default"].weight, 7 / 3)
    plain = {"vocab_size": VOCAB, "lora": lora}
    assert list(model.state_dict()) == names and model.get_output_embeddings() is layer
    with torch.no_grad():
        assert same_bits(layer(hidden), isologit.logits(hidden, layer.base_layer.weight, **plain))
        wanted = isologit.linear_logprobs(hidden, layer.base_layer.weight, IDS[:, :3], softcap=2.0, **plain).logprobs
        assert same_bits(head.logprobs(hidden, IDS[:, :3]).logprobs, wanted)
        assert model(input_ids=IDS).logits.shape == (*IDS.shape, VOCAB)
        with model.disable_adapter():
            assert same_bits(layer(hidden), isologit.logits(hidden, layer.base_layer.weight))
        model.merge_adapter()
        assert same_bits(layer(hidden), isologit.logits(hidden, layer.base_layer.weight))
        model.unmerge_adapter()
    with pytest.raises(ValueError, match="has an isologit.nn.LMHead already"):
        isologit.hf.install(model)
    isologit.hf.uninstall(model)
    assert (
        "forward" not in vars(layer)
        and same_bits(layer(hidden), layer(hidden))
        and layer(hidden).dtype != torch.float32
    )


def test_the_adapter_of_the_head_trains():
    model, layer = adapted()
    head = isologit.hf.install(model.train())
    hidden = body(model.base_model.model)
    loss = head.cross_entropy(hidden, IDS)
    loss.backward()
    trained = [
        parameter for name, parameter in model.named_parameters() if "lm_head" in name and parameter.requires_grad
    ]
    assert len(trained) == 2 and all(parameter.grad.any() for parameter in trained)
    lora = tuple(parameter.detach().clone().requires_grad_() for parameter in trained)
    isologit.linear_cross_entropy(
        hidden, layer.base_layer.weight, IDS, softcap=2.0, vocab_size=VOCAB, lora=(*lora, 7 / 3)
    ).backward()
    assert all(same_bits(a.grad, b.grad) for a, b in zip(trained, lora, strict=True))
    model(input_ids=IDS, labels=IDS).loss.backward()  # through the model's own loss too


@pytest.mark.parametrize(("options", "why"), [({"use_dora": True}, "DoRA"), ({"lora_bias": True}, "bias of its own")])
def test_adapters_that_are_more_than_a_product_are_refused(options, why):
    model, layer = adapted(**options)
    with pytest.raises(NotImplementedError, match=why):
        isologit.hf.install(model)
    assert "forward" not in vars(layer)


def test_an_adapted_head_that_does_more_is_refused():
    model, layer = adapted()
    layer.register_forward_hook(lambda *_: None)
    with pytest.raises(NotImplementedError, match="hooks"):
        isologit.hf.install(model)
    model, layer = adapted()
    layer.scaling["default"] = 1.0
    own = type(layer).forward
    layer.forward = lambda x: 2 * own(layer, x)
    with pytest.raises(NotImplementedError, match="other logits of random rows"):
        isologit.hf.install(model)
