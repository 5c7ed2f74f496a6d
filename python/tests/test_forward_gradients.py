"""Gradients of isologit.forward by CONTRACT.md 10: those of linears, rotaries and residuals bit for bit, the others
against autograd through the definitions in f64, and never further from it than the bound allows."""

import expected
import pytest
import torch
from test_forward import KERNELS, normal, same
from torch.utils.checkpoint import checkpoint

from isologit import forward

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
BOUND = 2.0**-24  # of the sum of the magnitudes of a gradient's terms


def leaf(*shape, dtype=torch.bfloat16, seed=0, scale=1.0):
    return normal(*shape, dtype=dtype, seed=seed, scale=scale).requires_grad_()


def wide(x):
    return x.detach().double().requires_grad_()


def gradients(y, leaves, dy):
    return torch.autograd.grad(y, leaves, dy.to(y.dtype))


def rounded(values, dtype):
    """f64 rounded once: to f32 and then to odd where that was not exact, which the second rounding sees."""
    near = values.double().float()
    if dtype == torch.float32:
        return near
    excess = near.double().abs() - values.abs()
    bits = near.view(torch.int32)
    step = torch.where((excess != 0) & (bits & 1 == 0), -excess.sign(), 0).int()
    return (bits + step).view(torch.float32).to(dtype)


def assert_near(found, right, magnitudes):
    """found is right, an f64 within 2^-40 of the magnitudes, moved by the bound at most and rounded once."""
    assert found.shape == right.shape
    off = BOUND * magnitudes.double()
    low, high = rounded(right - off, found.dtype), rounded(right + off, found.dtype)
    assert torch.all((found >= low) & (found <= high)), (found - right).abs().max()


def sums(rows):
    """The exact sums over the first dimension."""
    return [sum(map(expected.Fraction, column)) for column in rows.double().t().tolist()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
def test_linear(dtype, weight_dtype):
    x, weight, bias = leaf(2, 3, 9, dtype=dtype), leaf(7, 9, dtype=weight_dtype), leaf(7, dtype=torch.float32)
    dy = normal(2, 3, 7, dtype=dtype, seed=4)
    dx, dweight, dbias = gradients(forward.linear(x, weight, bias), (x, weight, bias), dy)
    rows, flat = dy.reshape(6, 7), x.detach().reshape(6, 9)
    assert same(dx, expected.logits(rows, weight.detach().t(), dtype=dtype).reshape(2, 3, 9))
    assert same(dweight, expected.logits(rows.t(), flat.t(), dtype=weight_dtype))
    right = [expected.round_once(total, torch.float32) for total in sums(rows)]
    assert same(dbias, torch.tensor(right))
    frozen = gradients(forward.linear(x, weight.detach()), (x,), dy)
    assert same(frozen[0], dx)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["halves", "pairs"])
def test_rotary(dtype, layout):
    from expected_forward import rotary as by_definition

    x, positions = leaf(3, 2, 10, dtype=dtype), torch.tensor([0, 5, 1 << 20])
    frequencies = forward.rotary_frequencies(1e4, 8)
    dy = normal(3, 2, 10, dtype=dtype, seed=1)
    (dx,) = gradients(forward.rotary(x, positions, frequencies, layout=layout), (x,), dy)
    # The turn by -angle: the imaginary parts change their sign before and after.
    sign = torch.ones(10, dtype=dtype)
    sign[slice(4, 8) if layout == "halves" else slice(1, 8, 2)] = -1
    right = by_definition(dy * sign, positions, frequencies, layout) * sign
    assert torch.equal(dx, right)


def test_residual():
    x, a, b = leaf(3, 8), leaf(3, 8, seed=1), leaf(3, 8, seed=2)
    dy = normal(3, 8, seed=3)
    found = gradients(forward.residual(x, a, b, multiplier=0.3), (x, a, b), dy)
    multiplier = torch.tensor(0.3).double().item()
    assert torch.equal(found[0], dy) and torch.equal(found[2], dy)
    assert same(found[1], rounded(dy.double() * multiplier, torch.bfloat16))
    assert torch.equal(gradients(forward.residual(x, a), (a,), dy)[0], dy)


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding(dtype):
    weight, ids = leaf(11, 6, dtype=dtype), torch.randint(0, 9, (4, 50), generator=torch.Generator().manual_seed(1))
    dy = normal(4, 50, 6, dtype=dtype, seed=3)
    y = forward.embedding(ids, weight, padding_id=2)
    assert torch.equal(y, weight[ids])
    (found,) = gradients(y, (weight,), dy)
    for row in range(11):
        terms = dy[ids == row] if row != 2 else dy[:0, 0]
        totals = sums(terms) if len(terms) else [expected.Fraction(0)] * 6
        assert same(found[row], torch.tensor([expected.round_once(total, dtype) for total in totals], dtype=dtype))


def norm_in_f64(x, weight, bias, epsilon, one_plus_weight):
    epsilon = torch.tensor(epsilon).double()
    g = 1 if weight is None else weight + 1 if one_plus_weight else weight
    if bias is not None:
        x = x - x.mean(-1, keepdim=True)
    y = x * g / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()
    return y if bias is None else y + bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["plain", "weighted", "one_plus", "layer"])
def test_norms(dtype, kind):
    x = leaf(70, 3, 24, dtype=dtype, scale=3)
    weight = None if kind == "plain" else leaf(24, dtype=torch.float32, seed=1)
    bias = leaf(24, dtype=torch.bfloat16, seed=2) if kind == "layer" else None
    leaves = [operand for operand in (x, weight, bias) if operand is not None]
    dy = normal(70, 3, 24, dtype=dtype, seed=3)
    wide_leaves = [wide(operand) for operand in leaves]
    padded = [*wide_leaves, None, None][:3]
    right = gradients(norm_in_f64(*padded, 1e-5, kind == "one_plus"), wide_leaves, dy.double())
    # Magnitudes: of sums of absolute terms, at most sqrt(24) times what the largest element of a row gives.
    wide_x = x.detach().double()
    if kind == "layer":
        wide_x = wide_x - wide_x.mean(-1, keepdim=True)
    r = (wide_x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    g = 1 if weight is None else weight.detach().double() + (kind == "one_plus")
    u, d = (dy.double() * g).abs(), (wide_x * r).abs()
    magnitudes = [r * (u + u.mean(-1, keepdim=True) + d * (u * d).mean(-1, keepdim=True))]
    magnitudes += [(dy.double().abs() * d).sum((0, 1)), dy.double().abs().sum((0, 1))]
    for kernel in KERNELS:
        if kind == "layer":
            y = forward.layer_norm(x, weight, bias, 1e-5, kernel=kernel)
        else:
            y = forward.rms_norm(x, weight, 1e-5, one_plus_weight=kind == "one_plus", kernel=kernel)
        for found, wanted, magnitude, operand in zip(gradients(y, leaves, dy), right, magnitudes, leaves, strict=False):
            assert found.dtype == operand.dtype
            assert_near(found, wanted, magnitude)


def gate_in_f64(g, up, kind, alpha, limit):
    cubic = torch.tensor(0.044715).double()
    if kind == "clamped_swish":
        alpha = torch.tensor(alpha).double()
        g, up = g.clamp(max=limit), up.clamp(-limit, limit) + 1
        return up * g * torch.sigmoid(alpha * g)
    if kind == "relu_squared":
        return torch.relu(g) ** 2 * up
    if kind == "silu":
        return torch.nn.functional.silu(g) * up
    return up * g * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (g + cubic * g**3))) / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["silu", "gelu_tanh", "relu_squared", "clamped_swish"])
def test_gates(dtype, kind):
    g, up = leaf(40, 24, dtype=dtype, scale=4), leaf(40, 24, dtype=dtype, seed=1, scale=3)
    with torch.no_grad():
        g[0, :6] = torch.tensor([0.0, 2.5, -2.5, 60000.0, -60000.0, -1.2785])
    dy = normal(40, 24, dtype=dtype, seed=3)
    wide_leaves = wide(g), wide(up)
    right = gradients(gate_in_f64(*wide_leaves, kind, 1.702, 2.5), wide_leaves, dy.double())
    edge = g.detach().double().abs().clamp(min=1)
    magnitudes = (dy.double() * (up.detach().double().abs() + 1)).abs() * edge, dy.double().abs() * edge**2
    for kernel in KERNELS:
        y = forward.gate(g, up, kind=kind, limit=2.5, kernel=kernel)
        for found, wanted, magnitude in zip(gradients(y, (g, up), dy), right, magnitudes, strict=True):
            assert_near(found, wanted, magnitude)
    (alone,) = gradients(forward.gate(g, kind="silu"), (g,), dy)
    (right,) = gradients(torch.nn.functional.silu(wide_leaves[0]), (wide_leaves[0],), dy.double())
    assert_near(alone, right, magnitudes[0])


def attention_in_f64(q, keys, values, seen, scale, softcap, sinks):
    """Of one sequence; seen [queries, keys] tells what each query sees."""
    group = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    scores = torch.einsum("ihd,jhd->hij", q, keys) * torch.tensor(scale).double()
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    sink = torch.full((q.shape[1],), -torch.inf, dtype=q.dtype) if sinks is None else sinks
    weights = torch.cat([scores, sink[:, None, None].expand(-1, q.shape[0], 1)], -1).softmax(-1)[..., :-1]
    return torch.einsum("hij,jhd->ihd", weights, values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap, window, causal, sink", [(0.0, 0, True, 0), (1.5, 7, True, 1), (0.0, 0, False, 1)])
def test_attention(dtype, softcap, window, causal, sink):
    queries, count = 37, 41
    q, keys, values = leaf(queries, 4, 12, dtype=dtype), leaf(count, 2, 12, dtype=dtype), leaf(count, 2, 6, dtype=dtype)
    sinks = leaf(4, dtype=torch.float32) if sink else None
    dy = normal(queries, 4, 6, dtype=dtype, seed=5)
    leaves = [x for x in (q, keys, values, sinks) if x is not None]
    wide_leaves = [wide(x) for x in leaves]
    places = torch.arange(queries)[:, None] + count - queries
    seen = torch.arange(count)[None] <= places if causal else torch.ones(queries, count, dtype=torch.bool)
    if window:
        seen &= torch.arange(count)[None] > places - window
    wide_sinks = wide_leaves[3] if sink else None
    right = gradients(attention_in_f64(*wide_leaves[:3], seen, 0.3, softcap, wide_sinks), wide_leaves, dy.double())
    # Terms are at most |dy| |v| times |k| or |q|, weighed by p, and by p once more in D.
    most = [x.detach().double().norm(dim=-1).max() for x in (q, keys, values, dy)]
    each = (0.6 * most[3] * most[2] * most[1], 0.6 * most[3] * most[2] * most[0], most[3], 2 * most[3] * most[2])
    for kernel in KERNELS:
        options = {"scale": 0.3, "softcap": softcap, "window": window, "causal": causal, "sinks": sinks}
        y = forward.attention(q, keys, values, kernel=kernel, **options)
        for found, wanted, magnitude in zip(gradients(y, leaves, dy), right, each, strict=False):
            assert_near(found, wanted, torch.full(found.shape, magnitude.item()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_combine_and_spread(dtype):
    x, weights = leaf(5, 3, 9, dtype=dtype), leaf(5, 3, dtype=torch.float32, seed=1)
    dy = normal(5, 9, dtype=dtype, seed=2)
    right = (x.double() * weights.double()[..., None]).sum(1)  # off by less than the bound's share of it
    dweights = (x.double() * dy.double()[:, None]).sum(-1)
    for kernel in KERNELS:
        dx, found = gradients(forward.combine(x, weights, kernel=kernel), (x, weights), dy)
        assert same(dx, rounded(weights.detach().double()[..., None] * dy.double()[:, None], dtype))
        assert_near(found, dweights.detach(), (x.double() * dy.double()[:, None]).abs().sum(-1).detach())
        assert same(forward.combine(x.detach(), weights.detach(), kernel=kernel), rounded(right.detach(), dtype))
    rows = leaf(5, 9, dtype=dtype)
    copies = forward.spread(rows, 3)
    assert torch.equal(copies, rows[:, None].expand(5, 3, 9))
    (found,) = gradients(copies, (rows,), x.detach())
    assert same(found, rounded(x.detach().double().sum(1), dtype))


@pytest.mark.parametrize("normalized", [False, True])
def test_router(normalized):
    logits = leaf(40, 7, dtype=torch.float32, scale=3)
    with torch.no_grad():
        logits[0] = torch.tensor([1.0, 5, 5, 5, 2, 2, 0])
        logits[1] = 60.0
    wide_logits = wide(logits)
    chosen = wide_logits.detach().sort(dim=-1, descending=True, stable=True).indices[:, :3]
    soft = (wide_logits.gather(1, chosen) if normalized else wide_logits).softmax(-1)
    right = soft if normalized else soft.gather(1, chosen)
    dy = normal(40, 3, dtype=torch.float32, seed=1)
    (dright,) = torch.autograd.grad(right, wide_logits, dy.double())
    for kernel in KERNELS:
        weights, ids = forward.router(logits, 3, normalized=normalized, kernel=kernel)
        assert torch.equal(ids, chosen) and ids[0].tolist() == [1, 2, 3] and ids[1].tolist() == [0, 1, 2]
        near = expected.nearly_a_tie(right.detach())
        assert near.sum() == 0 and same(weights.detach(), right.detach().float())
        (found,) = torch.autograd.grad(weights, logits, dy)
        assert_near(found, dright, torch.full(found.shape, 2 * dy.abs().max().item()))


def test_what_is_not_seen_is_not_touched():
    q, keys, values = leaf(5, 2, 8), leaf(12, 2, 8), leaf(12, 2, 8, seed=1)
    starts, counts, firsts = torch.tensor([0, 3, 5]), torch.tensor([4, 6]), torch.tensor([1, 6])
    dy = normal(5, 2, 8, seed=2)
    options = {"query_starts": starts, "key_counts": counts, "first_keys": firsts, "scale": 0.3, "window": 3}
    found = gradients(forward.attention(q, keys, values, **options), (q, keys, values), dy)
    unseen = [0, 5, 6, 7]  # of no sequence, or before what the windows show
    with torch.no_grad():
        for nan in (keys, values):
            nan[unseen] = torch.nan
        keys[11] = torch.nan  # of the last query alone
    again = gradients(forward.attention(q, keys, values, **options), (q, keys, values), dy)
    assert torch.equal(again[0][:4], found[0][:4]) and again[0][4].isnan().all()
    for side in (1, 2):
        assert (found[side][unseen] == 0).all() and (again[side][unseen] == 0).all()
        assert torch.equal(again[side][1:5], found[side][1:5]) and torch.equal(again[side][8], found[side][8])
        assert again[side][9:12].isnan().any()


def test_neither_neighbours_nor_threads_show():
    x, weight, dy = leaf(200, 3, 32), leaf(32, seed=1), normal(200, 3, 32, seed=2)
    whole = gradients(forward.rms_norm(x, weight, 1e-6), (x, weight), dy)
    part = gradients(forward.rms_norm(x[60:70], weight, 1e-6), (x,), dy[60:70])[0]
    assert torch.equal(part[60:70], whole[0][60:70]) and (part[:60] == 0).all()
    for threads in (1, 3):
        found = gradients(forward.rms_norm(x, weight, 1e-6, threads=threads), (x, weight), dy)
        assert all(map(torch.equal, found, whole))
    q, keys, values, dy = leaf(40, 4, 8), leaf(48, 2, 8), leaf(48, 2, 8, seed=1), normal(40, 4, 8, seed=4)
    starts, counts = torch.tensor([0, 33, 40]), torch.tensor([36, 12])
    packed = {"query_starts": starts, "key_counts": counts}
    whole = gradients(forward.attention(q, keys, values, scale=0.4, **packed), (q, keys, values), dy)
    alone = gradients(forward.attention(q[33:], keys[36:], values[36:], scale=0.4), (q, keys, values), dy[33:])
    assert torch.equal(alone[0][33:], whole[0][33:])
    assert all(torch.equal(alone[i][36:], whole[i][36:]) for i in (1, 2))
    for threads in (1, 3):
        y = forward.attention(q, keys, values, scale=0.4, threads=threads, **packed)
        assert all(map(torch.equal, gradients(y, (q, keys, values), dy), whole))


def test_layouts_do_not_show():
    fused, dy = leaf(4, 64), normal(4, 32, seed=1)
    (found,) = gradients(forward.gate(fused[:, :32], fused[:, 32:]), (fused,), dy)
    apart = [fused[:, :32].detach().clone().requires_grad_(), fused[:, 32:].detach().clone().requires_grad_()]
    assert torch.equal(found, torch.cat(gradients(forward.gate(*apart), apart, dy), 1))
    strided = torch.empty(4, 64).to(dy.dtype)[:, ::2].copy_(dy)
    assert torch.equal(gradients(forward.gate(*apart), apart, strided)[0], found[:, :32])
    one = forward.gate(*apart).sum()  # an upstream without memory of its own
    assert all(x.isfinite().all() for x in torch.autograd.grad(one, apart))
    empty = leaf(0, 8)
    weight = leaf(8)
    assert (gradients(forward.rms_norm(empty, weight, 1e-6), (weight,), torch.empty(0, 8))[0] == 0).all()
    matrix = leaf(3, 8)
    assert (gradients(forward.linear(empty, matrix), (matrix,), torch.empty(0, 3))[0] == 0).all()


def block(x, weight, norm, frequencies):
    x = forward.linear(forward.rms_norm(x, norm, 1e-6), weight).view(-1, 2, 8)
    x = forward.rotary(x, torch.arange(x.shape[0]), frequencies)
    y = forward.attention(x, x, x, scale=0.4).flatten(1)
    return forward.residual(forward.gate(y, y), y, multiplier=0.5)


def test_checkpoint_and_compile():
    x, weight, norm, dy = leaf(6, 16), leaf(16, 16), leaf(16, seed=1), normal(6, 16, seed=2)
    frequencies = forward.rotary_frequencies(1e4, 8)
    arguments = (x, weight, norm, frequencies)
    leaves = (x, weight, norm)
    right = block(*arguments)
    found = gradients(right, leaves, dy)
    again = checkpoint(block, *arguments, use_reentrant=False)
    assert torch.equal(again, right) and all(map(torch.equal, gradients(again, leaves, dy), found))
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)(*arguments)
    assert torch.equal(compiled, right) and all(map(torch.equal, gradients(compiled, leaves, dy), found))


@pytest.mark.parametrize("name", ["linear", "rms_norm", "gate", "attention"])
def test_operators_are_what_torch_expects(name):
    from isologit._torch import forward as operators

    running = (0, [], "")
    q = leaf(3, 2, 8, dtype=torch.float32)
    arguments = {
        "linear": (leaf(3, 8), leaf(5, 8), None),
        "rms_norm": (leaf(3, 8), leaf(8), 1e-6, False),
        "gate": (leaf(3, 8), None, "silu", 1.0, 1.0),
        "attention": (q, q, q, torch.tensor([0, 3]), torch.tensor([3]), None, None, None, 0.3, 0.0, True, 0),
    }[name]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(getattr(operators, name), (*arguments, *running), test_utils=tests)


def test_refusals():
    pages, table = leaf(1, 4, 2, 8), torch.tensor([[0]])
    packed = {"query_starts": torch.tensor([0, 2]), "key_counts": torch.tensor([4]), "block_table": table}
    y = forward.attention(leaf(2, 2, 8), pages, pages, scale=1.0, **packed)
    with pytest.raises(NotImplementedError, match="block_table: attention over pages has no gradients"):
        y.sum().backward()
    keys = leaf(4, 2, 8)
    twice = {"query_starts": torch.tensor([0, 1, 2]), "key_counts": torch.tensor([3, 3])}
    y = forward.attention(leaf(2, 2, 8), keys, keys, scale=1.0, first_keys=torch.tensor([0, 1]), **twice)
    with pytest.raises(NotImplementedError, match="first_keys: key 1 is of two sequences"):
        y.sum().backward()
    with pytest.raises(NotImplementedError, match="tangent"):
        torch.func.jvp(lambda x: forward.gate(x), (normal(2, 8),), (normal(2, 8),))
