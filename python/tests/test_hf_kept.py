"""What users do to a model of Transformers after isologit.hf.install: the head stays in force, with what the model's
parameters are then."""

import copy
import io

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import expected  # noqa: E402
from expected import same_bits  # noqa: E402
from test_hf import IDS, VOCAB, tiny  # noqa: E402
from torch import nn  # noqa: E402

import isologit  # noqa: E402
import isologit.hf  # noqa: E402
from isologit._deferred import DeferredLogits  # noqa: E402
from isologit.nn import LMHead  # noqa: E402


def assert_in_force(model, vocab=VOCAB):
    """Logits are the head's exact ones of hidden states and of the weight that the model has; a loss of labels is made
    of the hidden states; a gradient of both comes to the weight, which is the embedding's where they are tied."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = inner.get_output_embeddings()
    weight = head.weight
    assert type(head) is LMHead and inner.lm_head is head and head.vocab_size == vocab == weight.shape[0]
    assert (weight is inner.get_input_embeddings().weight) == inner.config.tie_word_embeddings
    weight.requires_grad_()
    seen = []
    hook = inner.base_model.norm.register_forward_hook(lambda _, __, hidden: seen.append(hidden))
    logits, out = model(input_ids=IDS).logits, model(input_ids=IDS, labels=IDS)
    hook.remove()
    assert same_bits(seen[0], seen[1])
    rows = expected.logits(seen[0][0, :2].detach(), weight.detach())
    assert logits.dtype == torch.float32 and same_bits(logits.detach()[0, :2], rows)
    assert same_bits(logits.detach(), isologit.logits(seen[0], weight, dtype=torch.float32).detach())
    assert isinstance(out.logits, DeferredLogits) and out.logits.recipe.made is None
    assert same_bits(out.loss, isologit.linear_cross_entropy(seen[1][:, :-1], weight, IDS[:, 1:]))
    hidden = seen[1]
    right = isologit.linear_cross_entropy(hidden[:, :-1].detach(), weight, IDS[:, 1:])
    of_loss, of_right = (torch.autograd.grad(x, weight, retain_graph=True)[0] for x in (out.loss, right))
    assert of_right.any() and (inner.config.tie_word_embeddings or same_bits(of_loss, of_right))


def resized(model, folder):
    model.resize_token_embeddings(VOCAB + 9)
    return model


def retied(model, folder):
    model.tie_weights()
    return model


def tied_to_another(model, folder):
    """An embedding that is put in later."""
    embedding = nn.Embedding(VOCAB, 32).to(model.dtype)
    model.set_input_embeddings(embedding)
    model.tie_weights()
    assert (model.lm_head.weight is embedding.weight) == model.config.tie_word_embeddings
    return model


def saved(model, folder):
    """Nothing of the head is in what is saved, and the model is as it was."""
    stock = copy.deepcopy(model)
    isologit.hf.uninstall(stock)
    model.save_pretrained(folder / "installed")
    stock.save_pretrained(folder / "stock")
    for file in (folder / "stock").iterdir():
        assert (folder / "installed" / file.name).read_bytes() == file.read_bytes()
    return model


def loaded(model, folder):
    """What was saved is a model of Transformers, with its own head."""
    saved(model, folder)
    found = type(model).from_pretrained(folder / "installed")
    assert type(found.lm_head) is nn.Linear and found.dtype == model.dtype
    assert all(map(same_bits, found.state_dict().values(), model.state_dict().values()))
    isologit.hf.install(found)
    return found


def state_loaded(model, folder):
    other = tiny("Qwen3", model.config.tie_word_embeddings)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.25)
    model.load_state_dict(other.state_dict())
    assert same_bits(model.lm_head.weight, other.lm_head.weight)
    return model


def pickled(model, folder):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def copied(model, folder):
    """The copy has a head of its own, which a step of the first leaves alone."""
    found = copy.deepcopy(model)
    weight = found.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    assert found.lm_head is not model.lm_head and same_bits(found.lm_head.weight.detach(), weight)
    isologit.hf.uninstall(model)
    return found


def adapted(model, folder):
    """LoRA on the body, trained a little."""
    peft = pytest.importorskip("peft")
    found = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return found


def adapted_everywhere(model, folder):
    """What PEFT calls "all-linear" leaves the head out."""
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))


def merged(model, folder):
    return adapted(model, folder).merge_and_unload()


def checkpointed(model, folder):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def generated(model, folder):
    for options in ({"do_sample": False}, {"do_sample": False, "num_beams": 2}, {"do_sample": True}):
        found = model.generate(IDS[:, :3], max_new_tokens=3, min_new_tokens=3, **options)
        assert found.shape == (2, 6)
    return model


WAYS = {
    "resize_token_embeddings": resized,
    "tie_weights": retied,
    "tie_weights of another embedding": tied_to_another,
    "save_pretrained": saved,
    "from_pretrained": loaded,
    "load_state_dict": state_loaded,
    "torch.save": pickled,
    "to f32": lambda model, _: model.to(torch.float32),
    "half": lambda model, _: model.half(),
    "deepcopy": copied,
    "LoRA on the body": adapted,
    "LoRA on all-linear": adapted_everywhere,
    "LoRA on the body, merged": merged,
    "gradient checkpointing": checkpointed,
    "generate": generated,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_the_head_stays_in_force(way, tied, tmp_path):
    model = tiny("Qwen3", tied)
    isologit.hf.install(model)
    model = WAYS[way](model, tmp_path)
    assert_in_force(model, VOCAB + 9 if way == "resize_token_embeddings" else VOCAB)


@pytest.mark.parametrize("tied", [True, False])
def test_compiled_models(tied):
    """One graph, whose logits have the bits of the model's own, and whose head its gradient (the embedding's, which is
    added where they are tied, is of the body that torch compiles)."""
    model = tiny("Qwen3", tied)
    isologit.hf.install(model)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    def of(called):
        model.zero_grad()
        logits = called(input_ids=IDS, use_cache=False).logits
        logits.sin().sum().backward()
        return [logits.detach()] if tied else [logits.detach(), model.lm_head.weight.grad.clone()]

    assert all(map(same_bits, of(compiled), of(model)))
    assert model.lm_head.weight.grad.any()
    loss = compiled(input_ids=IDS, labels=IDS, use_cache=False).loss
    assert (loss - model(input_ids=IDS, labels=IDS).loss).abs() < 1e-5
    assert_in_force(model)
