"""Everything on a device that is not the CPU: the same bits, and no operation that mixes its tensors with the CPU's."""

import other_device
import pytest
import torch
from expected import same_bits
from test_forward import normal
from test_forward_models import model_of
from test_forward_training import tokens

import isologit
from isologit import forward, hf, losses, parallel
from isologit._labels import causal_lm_loss, defer
from isologit._score import OUTPUTS
from isologit.nn import LMHead


@pytest.fixture
def device():
    return other_device.device()


def both(device, function, *operands):
    """function's results of operands on the CPU, and of those on the device, brought back."""

    def there(x):
        return x.to(device) if isinstance(x, torch.Tensor) else x

    found = function(*map(there, operands))
    right = function(*operands)
    listed = [[x] if isinstance(x, torch.Tensor) else list(x) for x in (right, found)]
    assert all(x.device == device for x in listed[1])
    return [(x, y.cpu()) for x, y in zip(*listed, strict=True)]


def assert_same(device, function, *operands):
    for right, found in both(device, function, *operands):
        assert same_bits(found, right)


def test_heads(device):
    hidden, weight, bias = normal(5, 24), normal(60, 24), normal(60)
    ids, mask = torch.tensor([3, 0, 59, 7, 7]), torch.arange(60).remainder(7) != 1

    def scores(hidden, weight, bias, ids, mask):
        options = {"bias": bias, "softcap": 5.0, "temperature": 0.7}
        whole = isologit.score(hidden, weight, ids, outputs=OUTPUTS, top_k=4, **options)
        masked = isologit.score(hidden, weight, ids, outputs=("logprobs", "log_kept"), mask=mask, **options)
        places = {"seed": 3, "sequence_id": list(range(5)), "position": [7] * 5}
        drawn = isologit.sample(hidden, weight, top_p=0.9, **places, **options)
        return [
            *(getattr(whole, name) for name in (*OUTPUTS, "top_k_ids", "top_k_logprobs")),
            masked.logprobs,
            masked.log_kept,
            isologit.logits(hidden, weight, dtype=torch.bfloat16, **options),
            drawn.ids,
        ]

    assert_same(device, scores, hidden, weight, bias, ids, mask)


def test_blocks_on_several_devices(device):
    """Where hidden is, results are; the weight's blocks, one of them without rows, stay where they are."""
    hidden, weight, bias = normal(5, 24), normal(60, 24), normal(60)
    ids, mask = torch.tensor([3, 0, 59, 7, -100]), torch.arange(60).remainder(7) != 1
    options = {"softcap": 5.0, "temperature": 0.7}
    outputs = [name for name in OUTPUTS if name != "log_kept"]
    places = {"seed": 3, "sequence_id": list(range(5)), "position": [7] * 5, "top_p": 0.9}
    whole = isologit.score(hidden, weight, ids, bias=bias, outputs=outputs, top_k=4, **options)
    masked = isologit.score(hidden, weight, ids, bias=bias, mask=mask, outputs=("logprobs", "log_kept"), **options)
    drawn = isologit.sample(hidden, weight, bias=bias, **places, **options)
    bounds, cpu = [0, 11, 11, 40, 60], torch.device("cpu")
    for at, devices in ((cpu, [cpu, device, device, cpu]), (device, [cpu, cpu, device, device]), (device, [cpu] * 4)):
        own = {"bias": [], **options, "group": parallel.ALONE}
        blocks = []
        for first, last, there in zip(bounds, bounds[1:], devices, strict=False):
            blocks.append(weight[first:last].clone().to(there))
            own["bias"].append(bias[first:last].clone().to(there))
        blocks[-1] = torch.cat([blocks[-1], torch.full_like(blocks[-1][:3], torch.nan)])  # padding
        own["bias"][-1] = torch.cat([own["bias"][-1], own["bias"][-1][:3]])
        own["vocab_size"] = 60
        x, tokens = hidden.to(at), ids.to(at)
        found = parallel.score(x, blocks, tokens, outputs=outputs, top_k=4, **own)
        for name in (*outputs, "top_k_ids", "top_k_logprobs"):
            assert getattr(found, name).device == at
            assert same_bits(getattr(found, name).cpu(), getattr(whole, name)), name
        found = parallel.score(x, blocks, tokens, mask=mask.to(at), outputs=("logprobs", "log_kept"), **own)
        assert same_bits(found.logprobs.cpu(), masked.logprobs) and same_bits(found.log_kept.cpu(), masked.log_kept)
        found = parallel.sample(x, blocks, **places, **own)
        assert torch.equal(found.ids.cpu(), drawn.ids) and same_bits(found.logprobs.cpu(), drawn.logprobs)
        factors = x.new_ones(1, x.shape[1]), [block.new_ones(len(block), 1) for block in blocks], 1.0
        with pytest.raises(NotImplementedError, match="lora is given, and hidden and the rows"):
            parallel.score(x, blocks, tokens, lora=factors, **own)
        gradients_of_blocks(x, blocks, tokens, own)


def gradients_of_blocks(x, blocks, tokens, own):
    """Each lies where what it is of does."""
    whole = [torch.cat([part.cpu() for part in parts])[:60] for parts in (blocks, own["bias"])]
    for gradients, z_loss in (("exact", 0.1), ("fast", 0.0)):
        leaves = [y.detach().clone().requires_grad_() for y in (x, *blocks, *own["bias"])]
        hidden, weights, biases = leaves[0], leaves[1 : 1 + len(blocks)], leaves[1 + len(blocks) :]
        losses = {"gradients": gradients, "z_loss": z_loss, "reduction": "sum"}
        loss = parallel.linear_cross_entropy(hidden, weights, tokens, **losses, **own | {"bias": biases})
        alone = [y.detach().cpu().clone().requires_grad_() for y in (x, *whole)]
        options = {name: own[name] for name in ("softcap", "temperature")}
        wanted = isologit.linear_cross_entropy(*alone[:2], tokens.cpu(), bias=alone[2], **losses, **options)
        assert loss.device == x.device and same_bits(loss.detach().cpu(), wanted.detach())
        loss.backward()
        wanted.backward()
        assert all(leaf.grad.device == leaf.device for leaf in leaves)
        found = [hidden.grad.cpu(), *(torch.cat([one.grad.cpu() for one in parts])[:60] for parts in (weights, biases))]
        if gradients == "exact":
            assert all(map(same_bits, found, (one.grad for one in alone)))
        assert all(torch.allclose(a, b.grad, rtol=2**-8, atol=2**-12) for a, b in zip(found, alone, strict=True))
    with pytest.raises(NotImplementedError, match="dweight_accumulate is given, and the blocks are not all on the CPU"):
        buffers = [torch.zeros(weight.shape, device=weight.device) for weight in weights]
        parallel.score(hidden, weights, tokens, dweight_accumulate=buffers, **own)


def test_gradients_of_heads(device):
    hidden, weight, ids = normal(5, 24), normal(60, 24), torch.tensor([3, 0, 59, 7, 7])

    def exact(hidden, weight, ids):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
        isologit.linear_cross_entropy(*leaves, ids, gradients="exact").backward()
        return [x.grad for x in leaves]

    assert_same(device, exact, hidden, weight, ids)


def test_a_head_as_a_module(device):
    hidden, weight, bias, ids = normal(5, 24), normal(60, 24), normal(60), torch.tensor([3, 0, 59, 7, 7])

    def of_head(hidden, weight, bias, ids):
        parameters = [torch.nn.Parameter(x.clone()) for x in (weight, bias)]
        head = LMHead(*parameters, gradients="exact")
        rows = hidden.clone().requires_grad_()
        loss = head.cross_entropy(rows, ids) + head(rows).square().mean()
        loss.backward()
        drawn = head.sample(hidden, seed=1, sequence_id=2, position=3)
        found = [head(rows), head.logprobs(rows, ids).logprobs, loss, rows.grad, drawn.ids]
        return [x.detach() for x in found]

    assert_same(device, of_head, hidden, weight, bias, ids)


def test_losses(device):
    logprobs, old, ref = (-normal(3, 5, seed=seed).float().abs() for seed in range(3))
    advantages = normal(3).float()
    mask = torch.arange(15).reshape(3, 5) % 4 != 1

    def of_policy(logprobs, old, ref, advantages, mask):
        leaf = logprobs.clone().requires_grad_()
        loss = losses.policy_loss(leaf, old, advantages, mask, ref_logprobs=ref, kl_weight=0.1)
        total = loss + losses.mean(leaf, torch.tensor(7, device=leaf.device)) + losses.kl(leaf, ref).sum()
        total.backward()
        return [loss.detach(), total.detach(), losses.ratio(logprobs, old), leaf.grad]

    assert_same(device, of_policy, logprobs, old, ref, advantages, mask)


@pytest.mark.parametrize("count", [None, 11, torch.tensor(11)])
def test_losses_of_a_model(device, count):
    model, ids = model_of("qwen3"), tokens(2, 9)
    hf.install(model)
    right = model(ids, labels=ids, num_items_in_batch=count).loss
    hidden = model.base_model(ids, use_cache=False).last_hidden_state.detach()
    model.to(device)
    found = causal_lm_loss(defer(model.lm_head, hidden.to(device)), ids, 50, count)
    assert found.device == device and same_bits(found.detach().cpu(), right.detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_operators(device, dtype):
    x, other = (normal(2, 3, 24, dtype=dtype, seed=seed) for seed in (0, 1))
    weight, matrix = normal(24), normal(7, 24)
    assert_same(device, forward.linear, x, matrix, normal(7))
    assert_same(device, lambda x, w: forward.rms_norm(x, w, 1e-6), x, weight)
    assert_same(device, lambda x, w: forward.layer_norm(x, w, None, 1e-5), x, weight)
    for kind in ("silu", "gelu_tanh", "relu_squared", "clamped_swish"):
        assert_same(device, lambda g, u, kind=kind: forward.gate(g, u, kind=kind), x, other)
    assert_same(device, lambda x, a, b: forward.residual(x, a, b, multiplier=0.3), x, other, x * 2**-9)
    positions, frequencies = torch.tensor([[0, 9, 1 << 20], [1, 2, 3]]), forward.rotary_frequencies(1e4, 8)
    assert_same(device, forward.rotary, x.unflatten(2, (2, 12)), positions, frequencies)
    assert_same(device, lambda x: forward.rotary(x, positions, frequencies), x.unflatten(2, (2, 12)))
    assert_same(device, lambda x: forward.router(x, 3), normal(4, 6, dtype=torch.float32))
    assert_same(device, lambda x, p: forward.combine(x, p), x, normal(2, 3, dtype=torch.float32))
    assert_same(device, forward.embedding, torch.tensor([[3, 1], [0, 6]]), matrix)


def test_attention(device):
    q, keys, values = normal(9, 4, 16), normal(20, 2, 16), normal(20, 2, 16)
    lists = {"query_starts": torch.tensor([0, 5, 9]), "key_counts": torch.tensor([8, 12])}

    def of(q, keys, values):
        options = {"scale": 0.25, "window": 6, "softcap": 3.0, "sinks": normal(4).to(q.device)}
        return forward.attention(q, keys, values, **lists, **options)

    assert_same(device, of, q, keys, values)
    table = torch.tensor([[3, 0, -1], [2, 5, 1]])
    pages = [normal(6, 4, 2, 16, seed=seed) for seed in (1, 2)]
    assert_same(device, lambda *x: forward.attention(*x, block_table=table, scale=0.25, **lists), q, *pages)


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gpt_oss", "qwen3_moe"])
def test_models(device, family):
    model, ids = model_of(family), tokens(2, 9)
    hf.install(model, scope="model")
    with torch.no_grad():
        right = model(ids).logits
        model.to(device)
        found = model(ids.to(device)).logits
    assert found.device == device
    assert same_bits(found.cpu(), right)


def test_training(device):
    """Gradients of norms and attention need not have the CPU's bits, but are as near to the real ones."""
    model, ids = model_of("qwen3"), tokens(2, 9)
    hf.install(model, scope="model")

    def gradients(ids):
        model.zero_grad()
        model(ids).logits.float().logsumexp(-1).sum().backward()
        return [parameter.grad.cpu().clone() for parameter in model.parameters()]

    right = gradients(ids)
    model.to(device)
    for found, near in zip(gradients(ids.to(device)), right, strict=True):
        assert (found.double() - near.double()).norm() <= 2**-7 * near.double().norm()
