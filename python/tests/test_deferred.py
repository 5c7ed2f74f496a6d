"""Models of Transformers that are called with labels: the loss is made of hidden states, logits when they are looked
at."""

import copy
import pickle
from fractions import Fraction

import numpy
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import expected  # noqa: E402
import expected_gradients  # noqa: E402
import expected_scores  # noqa: E402
from expected import round_once, same_bits  # noqa: E402
from gradient_problem import dz_of  # noqa: E402
from test_hf import FAMILIES, IDS, VOCAB, body, tiny  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from transformers.loss.loss_utils import ForCausalLMLoss  # noqa: E402

import isologit  # noqa: E402
import isologit.hf  # noqa: E402
from isologit._deferred import DeferredLogits  # noqa: E402
from isologit._labels import causal_lm_loss, defer  # noqa: E402
from isologit.integrations import _table  # noqa: E402

KINDS = ["Qwen3", "Gemma2", "Gemma3", "Cohere", "Granite"]  # plain, capped twice, scaled, divided
LABELS = torch.tensor([[-100, -100, 5, 6, 7, 8], [9, 10, 11, -100, 13, 14]])


def installed(family="Qwen3", tied=True, dtype=torch.bfloat16, scope="head"):
    model = tiny(family, tied, dtype)
    isologit.hf.install(model, scope=scope)
    return model


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


class Largest(TorchDispatchMode):
    """The most elements of a tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        made = [x.numel() for x in tree_leaves(found) if isinstance(x, torch.Tensor) and type(x) is not DeferredLogits]
        self.size = max(self.size, *made, 0)
        return found


@pytest.mark.parametrize("scope", ["head", "model"])
def test_the_loss_is_that_of_the_hidden_states(scope):
    model = installed(scope=scope)
    found = model(input_ids=IDS, labels=LABELS).loss
    hidden = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state
    weight = model.get_output_embeddings().weight
    right = isologit.linear_cross_entropy(hidden[:, :-1], weight, LABELS[:, 1:])
    assert same_bits(found, right)
    wanted = gradients(model, right)
    # One more row, which is ignored, changes no bit.
    assert all(same_bits(one, other) for one, other in zip(gradients(model, found), wanted, strict=True))


@pytest.mark.parametrize(
    ("family", "given"), [*((each, None) for each in KINDS), ("Qwen3", int), ("Gemma3", torch.tensor)]
)
def test_loss_and_gradients_are_those_of_the_definition(family, given):
    """Of logits whose steps are rounded once each; a loss over num_items_in_batch is a sum divided, rounded once."""
    model = installed(family, tied=False, dtype=torch.float32)
    head = model.get_output_embeddings()
    head.gradients = "exact"
    seen = []
    model.base_model.norm.register_forward_hook(lambda _, __, hidden: seen.append(hidden.retain_grad() or hidden))
    model(input_ids=IDS, labels=LABELS)
    hidden, weight = seen[-1].detach().flatten(0, 1), head.weight.detach()
    target = torch.nn.functional.pad(LABELS, (0, 1), value=-100)[:, 1:].flatten()
    steps = FAMILIES[family][1]
    transforms = expected_gradients.Transforms([1.0] * len(target), **steps).steps(0)
    z = expected.logits(hidden, weight, transforms=transforms).tolist()
    counted = (target != -100).nonzero().flatten().tolist()
    scores = {n: expected_scores.of_row(z[n], z[n], list(range(VOCAB)), [int(target[n])]) for n in counted}
    total = -sum(Fraction(scores[n]["logprobs"][0]) for n in counted)
    # A number by which the sum, if it were rounded, would not give the same.
    twice = (n for n in range(2, 99) if round_once(total / n) != round_once(Fraction(round_once(total)) / n))
    count = len(counted) if given is None else next(twice)

    loss = model(input_ids=IDS, labels=LABELS, num_items_in_batch=None if given is None else given(count)).loss
    assert loss.dtype == torch.float32 and loss.shape == () and loss.item() == round_once(total / count)
    g = torch.tensor(0.7)
    loss.backward(g)
    each = -round_once(Fraction(g.item()) / count)
    upstream = torch.where(target == -100, 0.0, torch.tensor(each))
    none = torch.zeros(len(target))
    dz = dz_of(hidden, weight, None, target.clamp(min=0)[:, None], upstream[:, None], none, none, **steps)
    dhidden, dweight = expected_gradients.gradients(dz, hidden, weight)[:2]
    assert same_bits(seen[-1].grad.flatten(0, 1), dhidden) and same_bits(head.weight.grad, dweight)


def test_what_transformers_loss_takes():
    model = installed()
    hidden, weight = body(model), model.get_output_embeddings().weight
    shifted = model(input_ids=IDS, labels=LABELS, shift_labels=IDS, ignore_index=13).loss
    assert same_bits(shifted, isologit.linear_cross_entropy(hidden, weight, IDS, ignore_index=13))
    kept = model(input_ids=IDS, labels=LABELS[:, -2:], logits_to_keep=2).loss
    assert same_bits(kept, isologit.linear_cross_entropy(hidden[:, -2:-1], weight, LABELS[:, -1:]))
    assert model(input_ids=IDS, labels=torch.full_like(LABELS, -100)).loss.isnan()


@pytest.mark.parametrize("family", KINDS)
def test_no_logits_are_in_memory(family):
    model, ids = installed(family, tied=False), IDS.repeat(20, 1)
    with Largest() as largest:
        model(input_ids=ids, labels=ids).loss.backward()
    assert largest.size < ids.numel() * VOCAB
    with Largest() as largest:
        model(input_ids=ids)
    assert largest.size == ids.numel() * VOCAB


@pytest.mark.parametrize("family", KINDS)
def test_logits_that_are_looked_at_are_those_without_labels(family):
    model = installed(family, dtype=torch.float32)
    right, found = model(input_ids=IDS).logits, model(input_ids=IDS, labels=LABELS).logits
    assert isinstance(found, DeferredLogits) and found.recipe.made is None
    assert (found.shape, found.dtype, found.requires_grad) == (right.shape, right.dtype, True)
    wanted = gradients(model, (right[..., :-1, :] * 2).tanh().sum())
    assert all(
        same_bits(one, other)
        for one, other in zip(gradients(model, (found[..., :-1, :] * 2).tanh().sum()), wanted, strict=True)
    )
    assert same_bits(found.detach(), right.detach())
    with torch.no_grad():
        assert same_bits(model(input_ids=IDS, labels=LABELS).logits.float(), right.detach())
    assert found.tolist() == right.tolist()
    with pytest.raises(ZeroDivisionError):
        model.register_forward_hook(lambda *_: 1 / 0)
        model(input_ids=IDS, labels=LABELS)
    assert model.get_output_embeddings().instead is None


def test_logits_that_were_changed_are_what_the_loss_is_of():
    model = installed()
    changed = model(input_ids=IDS, labels=LABELS).logits
    changed.div_(2)
    right = model(input_ids=IDS).logits.detach() / 2
    assert same_bits(changed.detach(), right)
    assert same_bits(causal_lm_loss(changed, LABELS, VOCAB), ForCausalLMLoss(right, LABELS, VOCAB))


def test_a_copy_is_made_when_it_is_looked_at_too():
    model = installed()
    logits = model(input_ids=IDS, labels=LABELS).logits
    right, copied = model(input_ids=IDS).logits.detach(), logits.clone()
    assert isinstance(copied, DeferredLogits) and copied.requires_grad
    wanted = gradients(model, model(input_ids=IDS).logits.sum())
    found = gradients(model, copied.sum())
    assert all(same_bits(one, other) for one, other in zip(found, wanted, strict=True))
    assert logits.recipe.made is None and same_bits(copied.detach(), right)
    copied.div_(2)
    assert same_bits(logits.detach(), right) and same_bits(copied.detach(), right / 2)


def test_logits_of_a_weight_that_is_no_more_are_refused():
    model = installed()
    logits = model(input_ids=IDS, labels=LABELS).logits
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    with pytest.raises(RuntimeError, match="were changed since the model was called with labels"):
        logits.sum()


def test_copies_sizes_and_uninstall():
    model = installed()
    copied = copy.deepcopy(model)
    logits = copied(input_ids=IDS, labels=LABELS).logits
    assert logits.recipe.head is copied.get_output_embeddings() is not model.get_output_embeddings()
    model.resize_token_embeddings(VOCAB + 3)
    assert model(input_ids=IDS, labels=LABELS).logits.shape[-1] == VOCAB + 3
    isologit.hf.uninstall(model)
    assert type(model(input_ids=IDS, labels=LABELS).logits) is torch.Tensor
    assert model.loss_function is ForCausalLMLoss and not model._forward_hooks and not model._forward_pre_hooks


@pytest.mark.parametrize("order", ["softcap_first", "scale_first"])
def test_steps_are_the_heads_or_the_loss_is_of_logits_that_are_made(order):
    model = installed(dtype=torch.float32)
    hidden, target = body(model).requires_grad_(), torch.nn.functional.pad(LABELS, (0, 1), value=-100)[:, 1:]
    options = {"softcap": 3.0, "scale": 0.7, "vocab_size": VOCAB}
    head = isologit.nn.LMHead(model.get_output_embeddings().weight, **options, transform_order=order)
    right, plain = head.cross_entropy(hidden, target), head(hidden)

    def cap(z):
        return 3.0 * torch.tanh(z / 3.0)

    ways = {
        "softcap_first": lambda z: cap(z) * 0.7,
        "scale_first": lambda z: cap(z * 0.7),
        "a product with 1": lambda z: ways[order](z * 1.0) / 1,
        "none": lambda z: z,
        "another cap": lambda z: 3.0 * torch.tanh(z / 3.5) * 0.7,
        "another scale": lambda z: cap(z) * 0.7000001,
        "no product": lambda z: torch.tanh(z / 3.0) * 0.7,
        "more": lambda z: ways[order](z) + 1e-3,
        "by a tensor": lambda z: ways[order](z * torch.linspace(0.5, 1, VOCAB)),
    }
    assert ways.keys() > {order}
    for name, steps in ways.items():
        found = causal_lm_loss(steps(defer(head, hidden)), LABELS, VOCAB)
        wanted = right if name in (order, "a product with 1") else ForCausalLMLoss(steps(plain), LABELS, VOCAB)
        assert same_bits(found, wanted), name
        leaves = (hidden, head.weight)
        both = (torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (found, wanted))
        assert all(map(same_bits, *both)), name


def test_a_scale_of_1_is_no_step():
    model = tiny("Cohere", True, torch.float32)
    model.config.logit_scale = model.logit_scale = 1.0
    head = isologit.hf.install(model)
    out = model(input_ids=IDS, labels=LABELS)
    assert head.scale is None and out.logits.recipe.made is None
    assert same_bits(out.loss, head.cross_entropy(body(model)[:, :-1], LABELS[:, 1:]))


@pytest.mark.parametrize("look", ["numpy", "asarray", "from_dlpack", "pickle", "data_ptr"])
def test_what_does_not_go_through_dispatch(look):
    model = installed()
    right = model(input_ids=IDS).logits.detach()
    with torch.no_grad():
        found = model(input_ids=IDS, labels=LABELS).logits
    ways = {"numpy": lambda x: x.numpy(), "asarray": numpy.asarray, "from_dlpack": torch.from_dlpack}
    ways["pickle"] = lambda x: pickle.loads(pickle.dumps(x))
    if look == "data_ptr":
        assert found.data_ptr() == found.recipe.make().data_ptr() != 0
    else:
        assert same_bits(torch.as_tensor(ways[look](found)), right)
    with pytest.raises(RuntimeError, match="requires grad"):
        model(input_ids=IDS, labels=LABELS).logits.numpy()


@pytest.mark.parametrize("family", KINDS)
def test_inference_mode(family):
    """Nothing counts changes there: they are seen by their bits."""
    model, ids = installed(family, tied=False), IDS.repeat(20, 1)
    right = model(input_ids=ids, labels=ids)
    with torch.inference_mode(), Largest() as largest:
        found = model(input_ids=ids, labels=ids)
    assert largest.size < ids.numel() * VOCAB and same_bits(found.loss, right.loss.detach())
    assert isinstance(found.logits, DeferredLogits) and found.logits.recipe.made is None
    assert found.logits.is_inference() and not found.logits.requires_grad
    with torch.inference_mode():
        assert same_bits(found.logits.clone(), right.logits.detach())
        changed = model(input_ids=ids, labels=ids).logits
        changed.recipe.hidden[0, 0] *= 2
    with pytest.raises(RuntimeError, match="were changed since the model was called with labels"):
        changed.sum()


def test_parameters_of_inference_mode():
    with torch.inference_mode():
        model = installed(tied=False)
        looked, left = (model(input_ids=IDS, labels=LABELS).logits for _ in range(2))
        assert model.lm_head.weight.is_inference() and same_bits(looked.clone(), model(input_ids=IDS).logits)
        model.lm_head.weight[3] *= 2
    with pytest.raises(RuntimeError, match="were changed since the model was called with labels"):
        left.sum()


def taken_away(model):
    """Hooks by which the head has its weight while its forward runs alone, as FSDP2 and accelerate do it."""
    head = model.get_output_embeddings()
    whole, gone = head.weight, torch.nn.Parameter(head.weight[:0].detach())
    head.weight, whole.grad = gone, None
    head.register_forward_pre_hook(lambda *_: setattr(head, "weight", whole))
    head.register_forward_hook(lambda *_: setattr(head, "weight", gone))
    return whole


@pytest.mark.parametrize("count", [None, 7])
def test_hooks_that_take_the_weight_away_bring_it_back_for_the_loss(count):
    model, ids = installed(tied=False), IDS.repeat(20, 1)
    right = model(input_ids=ids, labels=ids, num_items_in_batch=count)
    wanted, logits = gradients(model, right.loss), right.logits.detach() + 0
    weight = taken_away(model)
    with Largest() as largest:
        found = model(input_ids=ids, labels=ids, num_items_in_batch=count)
        of_body = gradients(model.base_model, found.loss)
    assert largest.size < ids.numel() * VOCAB
    assert same_bits(found.loss, right.loss) and all(map(same_bits, [*of_body, weight.grad], wanted))
    with pytest.raises(RuntimeError, match="were changed since the model was called with labels"):
        found.logits.sum()
    with torch.no_grad():  # evaluation looks at them
        assert same_bits(model(input_ids=ids, labels=ids).logits, logits)


def test_the_loss_is_of_what_hooks_have_made_of_hidden_states():
    """Even where they do it to the same hidden states again, when they bring the weight back."""
    model = installed(tied=False)
    model.lm_head.register_forward_pre_hook(lambda _, given: (given[0] * 2,))
    wanted = gradients(model, model(input_ids=IDS, labels=LABELS).loss)
    weight = taken_away(model)
    found = gradients(model.base_model, model(input_ids=IDS, labels=LABELS).loss)
    assert all(map(same_bits, [*found, weight.grad], wanted))


def test_hooks_that_look_at_logits_or_change_them():
    model, seen = installed(tied=False), []
    right = model(input_ids=IDS, labels=LABELS)
    hook = model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits[0, 0].tolist()))
    assert same_bits(model(input_ids=IDS, labels=LABELS).loss, right.loss)
    assert seen == [right.logits[0, 0].tolist()]
    hook.remove()
    model.lm_head.register_forward_hook(lambda _, __, logits: logits / 2)
    halved = model(input_ids=IDS, labels=LABELS)
    assert same_bits(halved.loss, ForCausalLMLoss(right.logits / 2, LABELS, VOCAB))


def test_a_loss_of_transformers_that_has_moved_is_left_to_it(monkeypatch):
    name, model = "transformers.loss.loss_utils:ForCausalLMLoss", tiny("Qwen3", True)
    names = {**_table.TRANSFORMERS.names, name: "(logits, labels)"}
    monkeypatch.setattr(_table, "TRANSFORMERS", _table.TRANSFORMERS._replace(names=names))
    with pytest.warns(UserWarning, match=rf"transformers .*: {name} takes \(logits, labels, .*will make logits"):
        isologit.hf.install(model)
    made = model(input_ids=IDS, labels=LABELS)
    assert type(made.logits) is torch.Tensor and same_bits(made.loss, ForCausalLMLoss(made.logits, LABELS, VOCAB))


@pytest.mark.parametrize("family", ["Qwen3", "Gemma2"])
def test_an_adapted_head_and_its_model(family):
    peft = pytest.importorskip("peft")
    model = tiny(family, False)
    model = peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules=["lm_head", "q_proj"]))
    with torch.no_grad():
        model.base_model.model.lm_head.lora_B["default"].weight.normal_()
    head = isologit.hf.install(model)
    made = model(input_ids=IDS, labels=LABELS)
    assert isinstance(made.logits, DeferredLogits)
    assert same_bits(made.loss, head.cross_entropy(body(model.base_model.model)[:, :-1], LABELS[:, 1:]))
    made.loss.backward()
    assert model.base_model.model.lm_head.lora_A["default"].weight.grad.any()
    isologit.hf.uninstall(model)
    assert not model.base_model.model._forward_hooks


def test_transformers_trainer(tmp_path):
    pytest.importorskip("accelerate")
    model = installed(dtype=torch.float32)
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in zip(IDS, LABELS, strict=True)] * 2
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 1, "logging_steps": 1}
    arguments = transformers.TrainingArguments(tmp_path, use_cpu=True, report_to=[], save_strategy="no", **options)
    seen = []
    head = model.get_output_embeddings()
    entropy = type(head).cross_entropy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(head), "cross_entropy", lambda *a, **k: (seen.append(1), entropy(*a, **k))[1])
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
        trainer.train()
    assert len(seen) == 2
    assert trainer.evaluate(rows)["eval_loss"] > 0
    found = trainer.predict(rows).predictions  # looks at logits
    with torch.no_grad():
        right = model(input_ids=torch.cat([IDS, IDS])).logits
    assert same_bits(torch.from_numpy(found), right)
