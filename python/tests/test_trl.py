"""The fused head of TRL's real trainers, and each of its fields against TRL's own function in f64."""

import os
import warnings
from unittest import mock

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
import foreign  # noqa: E402
from trl import _compat  # noqa: E402
from trl.kernels import chunked_logprob  # noqa: E402
from trl.trainer import utils  # noqa: E402

import isologit.hf  # noqa: E402
import isologit.losses  # noqa: E402
from isologit._deferred import DeferredLogits  # noqa: E402
from isologit.integrations import trl as ours  # noqa: E402

MODEL = "examples/tiny-qwen3"
FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
SIZES = {
    "vocab_size": 61,
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
    "Qwen3": ({}, 0),
    "Gemma2": ({"final_logit_softcapping": 2.0}, 1),
    "Cohere": ({"logit_scale": 0.3}, 1),
    "Granite": ({"logits_scaling": 3.0}, 1),
    "CohereCapped": ({"logit_scale": 0.3, "final_logit_softcapping": 1.5}, 2),
}
LABELS = torch.tensor([[-100, -100, 7, 3, 60, 0], [4, 5, -100, 11, 12, 13]])


def tiny(family, dtype=torch.float32):
    torch.manual_seed(5)
    name = family.removesuffix("Capped")
    config = getattr(transformers, f"{name}Config")(**SIZES, **FAMILIES[family][0])
    model = getattr(transformers, f"{name}ForCausalLM")(config).to(dtype).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(0, 0.3)
    return model


def fused(model, temperature=1.0, **options):
    utils.add_fused_lm_head(model, temperature=temperature, outputs=FIELDS, **options)
    return model


def rows_of(model, labels=LABELS):
    """The hidden states and the labels that the head scores."""
    ids = labels.clamp(min=1)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    keep = labels[:, 1:] != -100
    return hidden[keep], labels[:, 1:][keep]


def by_trl(hidden, weight, ids, temperature, softcap, scale):
    with foreign.in_f64(chunked_logprob):
        return chunked_logprob.ChunkedLogProbFunction.apply(
            hidden.double(), weight.double(), None, ids, temperature, 1000, softcap, scale, FIELDS[1:]
        )


def cap_and_scale(family):
    options = FAMILIES[family][0]
    scale = options.get("logit_scale", 1 / options.get("logits_scaling", 1.0))
    return options.get("final_logit_softcapping"), scale


def doubt(wanted, largest, roundings):
    """What an f32 chain may differ by from f64's: an ulp of the largest logit at each rounding of logits, twice since a
    logprob is a difference; and an ulp of its own."""
    return (2 * roundings + 2) * foreign.ulp(largest) + foreign.ulp(wanted)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_and_its_gradient_against_trls_own_in_f64(family, temperature, monkeypatch):
    model = fused(tiny(family), temperature)
    if family == "CohereCapped":  # no family that isologit knows has both; TRL takes them wherever it finds them
        monkeypatch.setattr(ours.hf, "transforms", lambda config: {"softcap": 1.5, "scale": 0.3})
    ours.install(model, gradients="exact")
    hidden, ids = rows_of(model)
    softcap, scale = cap_and_scale(family)
    weight = model.get_output_embeddings().weight
    wide_hidden, wide_weight = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    wanted = by_trl(wide_hidden, wide_weight, ids, float(torch.tensor(temperature)), softcap, scale)

    calls = ours.calls
    out = model(input_ids=LABELS.clamp(min=1), labels=LABELS, fused_lm_head=True)
    assert ours.calls == calls + 1
    keep = LABELS[:, 1:] != -100
    assert torch.equal(out.label_mask, keep)
    largest = (wide_hidden @ wide_weight.T).abs().max().detach() / min(temperature, 1.0) * max(scale, 1.0)
    roundings = 1 + FAMILIES[family][1] + (temperature != 1)
    for name, want in zip(FIELDS, wanted, strict=True):
        got = getattr(out, name)
        assert got.shape == keep.shape and not got[~keep].any(), name
        if name == "is_top1":
            assert torch.equal(got[keep], want)
            continue
        assert got.dtype == torch.float32 and want.dtype == torch.float64 and want.abs().max() > 0.01, name
        # The entropy moves by the spread of ln p for each unit of a logit, at most twice the largest of them here.
        room = doubt(want, largest, roundings) * (1 if name != "entropy" else 2 * float(largest) + 2)
        assert ((got[keep].double() - want).abs() <= room).all(), name
    count = int(keep.sum())
    assert out.loss.item() == float((-out.log_probs.detach()[keep].double()).sum().div(count).float())

    with torch.no_grad():
        batch = {"input_ids": LABELS.clamp(min=1)}
        asked = model(**batch, labels=LABELS, fused_lm_head=True, num_items_in_batch=torch.tensor(11))
    assert asked.loss.item() == float((-out.log_probs.detach()[keep].double()).sum().div(11).float())

    upstreams = torch.randn(2, count, generator=torch.Generator().manual_seed(1))
    exact = torch.autograd.grad(wanted[:2], [wide_hidden, wide_weight], list(upstreams.double()))
    ids_hidden, ids_weight = rows_of(model)[0].detach().requires_grad_(), weight
    got_scores = scores_of(model, ids_hidden, ids, temperature, family)
    got = torch.autograd.grad(got_scores, [ids_hidden, ids_weight], list(upstreams))
    for g, e in zip(got, exact, strict=True):
        assert e.abs().max() > 1e-3
        assert ((g.double() - e).abs() <= 2.0**-20 * e.abs().max()).all()


def scores_of(model, hidden, ids, temperature, family="Qwen3"):
    """log_probs and entropy by the function that stands in TRL's place."""
    call = ours._Call(ours._head_of(model, "exact"))
    before = ours._call.set(call)
    try:
        softcap, scale = cap_and_scale(family)
        return utils._ChunkedLogProbFunction.apply(
            hidden, model.get_output_embeddings().weight, None, ids, temperature, 1, softcap, scale, FIELDS[1:]
        )[:2]
    finally:
        ours._call.reset(before)


def test_exact_where_trl_in_f64_is_exact():
    """Logits of few bits at temperature 2: one rounding is left, and it is the right one."""
    model = fused(tiny("Qwen3"), 2.0)
    ours.install(model)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randint(-8, 8, (40, 32), generator=generator) / 4.0
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        weight.copy_(torch.randint(-8, 8, weight.shape, generator=generator) / 8.0)
    ids = torch.randint(0, 61, (40,), generator=generator)
    wanted = by_trl(hidden, weight.detach(), ids, 2.0, None, 1.0)
    call = ours._Call(ours._head_of(model, "fast"))
    before = ours._call.set(call)
    got = utils._ChunkedLogProbFunction.apply(hidden, weight, None, ids, 2.0, 1, None, 1.0, FIELDS[1:])
    ours._call.reset(before)
    for name, g, want in zip(FIELDS[:2], got, wanted, strict=False):
        sure = (want - 1e-13).float() == (want + 1e-13).float()
        assert sure.sum() > 35 and torch.equal(g[sure], want.float()[sure]), name
    assert torch.equal(got[3], wanted[3].float())
    assert torch.equal(got[4], wanted[4])
    assert ((got[2].double() - wanted[2]).abs() <= foreign.ulp(wanted[2]) + 2.0**-24).all()


def test_upstreams_of_single_rows_reach_only_them():
    model = fused(tiny("Qwen3"))
    ours.install(model, gradients="exact")
    embedded = model.get_input_embeddings()(LABELS.clamp(min=1)).detach().requires_grad_()
    out = model(inputs_embeds=embedded, labels=LABELS, fused_lm_head=True)
    (grad,) = torch.autograd.grad(out.log_probs[1, 3] + 0.1 * out.entropy[1, 3], embedded)
    assert not grad[0].any() and grad[1, :4].any() and not grad[1, 4:].any()


def test_an_empty_batch_a_label_out_of_range_and_a_strided_view():
    model = fused(tiny("Qwen3"))
    ours.install(model)
    nothing = torch.full_like(LABELS, -100)
    out = model(input_ids=LABELS.clamp(min=1), labels=nothing, fused_lm_head=True)
    assert not out.log_probs.any() and out.loss.item() == 0
    out.loss.backward()
    wrong = LABELS.clone()
    wrong[1, 3] = 61
    with pytest.raises(ValueError, match=r"61 is outside the vocabulary \[0, 61\)"):
        model(input_ids=LABELS.clamp(min=1), labels=wrong, fused_lm_head=True)
    hidden, ids = rows_of(model)
    wide = torch.zeros(len(hidden), 2, 32)
    wide[:, 1] = hidden.detach()
    assert torch.equal(
        scores_of(model, wide[:, 1], ids, 1.0)[0], scores_of(model, hidden.detach().contiguous(), ids, 1.0)[0]
    )


def test_half_precision_and_autocast_take_the_values_that_trl_takes():
    model = fused(tiny("Qwen3"))
    ours.install(model)
    weight = model.get_output_embeddings().weight
    with torch.autocast("cpu", torch.bfloat16):
        out = model(input_ids=LABELS.clamp(min=1), labels=LABELS, fused_lm_head=True)
        hidden, ids = rows_of(model)
    wanted = by_trl(hidden.bfloat16(), weight.detach().bfloat16(), ids, 1.0, None, 1.0)[0]
    keep = out.label_mask
    assert ((out.log_probs[keep].double() - wanted).abs() <= 1e-5).all()
    exactly = by_trl(hidden, weight.detach(), ids, 1.0, None, 1.0)[0]
    assert (out.log_probs[keep].double() - exactly).abs().max() > 1e-4


def test_uninstall_and_models_that_were_not_given():
    model, other = fused(tiny("Qwen3")), fused(tiny("Qwen3"))
    asked = {"input_ids": LABELS.clamp(min=1), "labels": LABELS, "fused_lm_head": True}
    stock = model(**asked).log_probs
    ours.install(model)
    ours.install(model)  # once more changes nothing
    calls = ours.calls
    assert torch.equal(other(**asked).log_probs, stock) and ours.calls == calls
    exact = model(**asked).log_probs
    assert ours.calls == calls + 1 and (exact - stock).abs().max() < 1e-4
    assert model(input_ids=asked["input_ids"]).logits.shape == (2, 6, 61)
    ours.uninstall(model)
    assert utils._ChunkedLogProbFunction is chunked_logprob.ChunkedLogProbFunction
    assert torch.equal(model(**asked).log_probs, stock) and ours.calls == calls + 1
    with pytest.raises(ValueError, match="has no head of isologit"):
        ours.uninstall(model)


def test_refusals():
    with pytest.raises(ValueError, match="Qwen3ForCausalLM has no fused head of TRL: make the trainer first"):
        ours.install(tiny("Qwen3"))
    model = fused(tiny("Gemma2"))
    ours.install(model)
    head = ours._head_of(model, "fast")._replace(transforms={})
    call, hidden = ours._Call(head), torch.zeros(1, 32)
    before = ours._call.set(call)
    with pytest.raises(NotImplementedError, match="TRL finds a softcap of 2.0"):
        weight = model.get_output_embeddings().weight
        ours._LogProbs.apply(hidden, weight, None, torch.tensor([1]), 1.0, 1, 2.0, 1.0, ())
    ours._call.reset(before)


@pytest.fixture(autouse=True)
def names_restored():
    yield
    ours._in_force.clear()
    if ours._originals:
        ours._restore_names()


def test_trl_quiets_vllm_where_nobody_has_said_how_much_it_shall_log(monkeypatch):
    """What docs/integrations/vllm.md says of the line by which isologit tells that it is on."""
    monkeypatch.setattr(_compat, "_is_package_available", lambda name: name == "vllm")
    for environment, level in (({}, "ERROR"), ({"VLLM_LOGGING_LEVEL": "INFO"}, "INFO")):
        with mock.patch.dict(os.environ, environment, clear=True):
            _compat._patch_vllm_logging()
            assert os.environ["VLLM_LOGGING_LEVEL"] == level


TEXTS = ["In the beginning God created", "the heaven and the earth", "And the earth was", "without form, and void"]


def trainer(name, folder, model):
    import trl

    preferences = {"prompt": TEXTS, "chosen": [" the earth"] * 4, "rejected": [" void and"] * 4}
    judged = {"prompt": TEXTS, "completion": [" the earth"] * 4, "label": [True, False, True, False]}
    online = {"num_generations": 4, "max_completion_length": 6, "beta": 0.04, "temperature": 0.9}
    kinds = {
        "SFT": ({"text": TEXTS}, {}),
        "DPO": (preferences, {}),
        "KTO": (judged, {}),
        "GRPO": ({"prompt": TEXTS}, online),
        "RLOO": ({"prompt": TEXTS}, online),
    }
    data, options = kinds[name]
    config, kind = getattr(trl, f"{name}Config"), getattr(trl, f"{name}Trainer")
    args = config(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        seed=1,
        disable_tqdm=True,
        **options,
    )
    reward = {"reward_funcs": lambda completions, **_: [float(len(c)) for c in completions]} if options else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    rows = datasets.Dataset.from_dict(data)
    return kind(model=model, args=args, train_dataset=rows, processing_class=tokenizer, **reward)


@pytest.mark.parametrize("name", ["SFT", "DPO", "KTO", "GRPO", "RLOO"])
def test_steps_of_real_trainers(name, tmp_path):
    def train(install):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
        made = trainer(name, tmp_path, model)
        if install:
            ours.install(made)
        made.train()
        logs = [log for log in made.state.log_history if "loss" in log]
        return logs, {key: value.detach().clone() for key, value in model.state_dict().items()}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock_logs, stock = train(False)
        calls = ours.calls
        logs, trained = train(True)
    assert ours.calls - calls >= 2 and len(logs) == 2
    assert all(abs(a["loss"] - b["loss"]) < 1e-3 for a, b in zip(logs, stock_logs, strict=True))
    before = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).state_dict()
    moved = {key for key in trained if not torch.equal(trained[key], before[key])}
    assert len(moved) > 10
    # Adam's first steps go by the sign of a gradient: all but those near 0 agree.
    same = sum(int(((trained[key] - stock[key]).abs() < 1e-4).sum()) for key in moved)
    assert same > 0.97 * sum(trained[key].numel() for key in moved)


def test_models_of_isologit_in_sft(tmp_path):
    def train(scope):
        model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
        if scope:
            isologit.hf.install(model, scope=scope)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = trainer("SFT", tmp_path, model)
            ours.install(made)
            made.train()
        ours.uninstall(made)
        return model, [log["loss"] for log in made.state.log_history if "loss" in log]

    before = ours.calls
    (stock, stock_losses), (with_head, losses), (model, of_model) = train(None), train("head"), train("model")
    assert ours.calls == before + 6
    # TRL's fused head goes by the parameters, whatever module they are in.
    assert losses == stock_losses
    assert all(map(torch.equal, with_head.state_dict().values(), stock.state_dict().values()))
    assert all(abs(one - other) < 1e-3 for one, other in zip(of_model, stock_losses, strict=True))
    # Where it is not asked for, the model that TRL has changed makes its loss of hidden states, as before.
    batch = {"input_ids": LABELS.clamp(min=1), "attention_mask": torch.ones_like(LABELS)}
    for changed in (with_head, model):
        found = changed(**batch, labels=LABELS, num_items_in_batch=7)
        hidden = changed.base_model(**batch, use_cache=False).last_hidden_state
        each = changed.get_output_embeddings().cross_entropy(hidden[:, :-1], LABELS[:, 1:], reduction="none")
        assert isinstance(found.logits, DeferredLogits) and torch.equal(found.loss, isologit.losses.mean(each, 7))


def test_lora_on_the_body(tmp_path):
    peft = pytest.importorskip("peft")
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = trainer("SFT", tmp_path, adapted)
        ours.install(made)
        calls = ours.calls
        made.train()
    assert ours.calls == calls + 2
    ours.uninstall(made)
