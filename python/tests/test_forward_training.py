"""Models of every family whose body is isologit's, trained: their gradients, and what must not show in them."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

from test_forward_models import CONFIGS, model_of  # noqa: E402

import isologit  # noqa: E402
from isologit import hf  # noqa: E402


@pytest.fixture(params=CONFIGS)
def family(request):
    return request.param


def tokens(rows=2, count=9):
    return torch.randint(3, 50, (rows, count), generator=torch.Generator().manual_seed(5))


def loss_of(model, ids):
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    if isinstance(head, isologit.nn.LMHead):
        return -head.logprobs(hidden[:, :-1], ids[:, 1:]).logprobs.sum()
    logits = head(hidden[:, :-1])
    if softcap := getattr(model.config, "final_logit_softcapping", None):
        logits = softcap * torch.tanh(logits / softcap)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")


def gradients(model, ids):
    model.zero_grad()
    loss = loss_of(model, ids)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def test_gradients_are_those_of_the_model_in_f64(family):
    """In f32, where what is left is rounding: no term is missing, in no parameter."""
    ids = tokens()
    wide = model_of(family, torch.float32).double()
    wide.config._experts_implementation = "eager"  # others have no f64
    _, right = gradients(wide, ids)
    model = model_of(family, torch.float32)
    hf.install(model, scope="model")
    _, found = gradients(model, ids)
    assert found.keys() == right.keys() and len(right) > 20
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        off = (gradient.double() - right[name]).norm() / right[name].norm()
        assert off < 2.0**-18, (name, off)


def test_a_step_in_bf16_is_as_near_as_stock():
    ids = tokens(4, 12)
    _, right = gradients(model_of("qwen3").double(), ids)
    model = model_of("qwen3")
    _, stock = gradients(model, ids)
    hf.install(model, scope="model")
    _, found = gradients(model, ids)
    off = [
        sum((side[name].double() - right[name]).square().sum() / right[name].square().sum() for name in right) ** 0.5
        for side in (found, stock)
    ]
    assert off[0] < 1.25 * off[1], off


def test_checkpointing_compiling_and_threads_do_not_show(family):
    model, ids = model_of(family), tokens()
    hf.install(model, scope="model")
    right = gradients(model, ids)

    def assert_right():
        found = gradients(model, ids)
        assert torch.equal(found[0], right[0])
        assert all(torch.equal(gradient, right[1][name]) for name, gradient in found[1].items())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert_right()
    torch.set_num_threads(threads)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    assert_right()
    model.gradient_checkpointing_disable()
    if family not in ("mistral", "qwen3", "gemma3", "phi3"):
        return  # the others' code is like theirs, or has experts, whose tokens are not known when a graph is made
    torch._dynamo.reset()
    body = model.base_model
    body.forward = torch.compile(body.forward, backend="aot_eager", fullgraph=True)
    assert_right()


def test_no_neighbour_shows_in_the_gradients_of_inputs(family):
    """Alone, in a batch, packed or padded: the gradient of a token's embedding has the same bits."""
    model, ids = model_of(family), tokens(3, 7)
    hf.install(model, scope="model")
    embedded = model.get_input_embeddings()(ids).detach()
    upstream = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(6)).to(torch.bfloat16)

    def of(inputs, dy, **options):
        inputs = inputs.clone().requires_grad_()
        hidden = model.base_model(inputs_embeds=inputs, use_cache=False, **options).last_hidden_state
        return torch.autograd.grad(hidden, inputs, dy)[0]

    whole = of(embedded, upstream)
    for row in range(3):
        assert torch.equal(of(embedded[row : row + 1], upstream[row : row + 1])[0], whole[row])
    places = torch.arange(7)
    packed = of(
        embedded[:2].reshape(1, 14, 32), upstream[:2].reshape(1, 14, 32), position_ids=torch.cat([places, places])[None]
    )
    assert torch.equal(packed.reshape(2, 7, 32), whole[:2])
    padding = torch.zeros(3, 2, 32, dtype=torch.bfloat16)
    mask = torch.cat([torch.zeros(3, 2), torch.ones(3, 7)], 1).long()
    positions = torch.cat([torch.zeros(2, dtype=torch.int64), places])[None].expand(3, -1)
    options = {"attention_mask": mask, "position_ids": positions}
    padded = of(torch.cat([padding, embedded], 1), torch.cat([padding, upstream], 1), **options)
    assert torch.equal(padded[:, 2:], whole)


def test_accumulation_is_torchs_sum():
    model, ids = model_of("qwen3"), tokens(2)
    hf.install(model, scope="model")
    parts = [gradients(model, ids[row : row + 1])[1] for row in range(2)]
    model.zero_grad()
    for row in range(2):
        loss_of(model, ids[row : row + 1]).backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, parts[0][name] + parts[1][name])


def test_sgd_lowers_the_loss():
    model, ids = model_of("qwen3"), tokens(4)
    hf.install(model, scope="model")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        losses.append(gradients(model, ids)[0].item())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0], losses
