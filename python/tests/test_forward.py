"""isologit.forward on torch tensors of any layout, against the contract by mpmath."""

import expected
import expected_forward
import pytest
import torch

import isologit
from isologit import forward

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
EXACT = [kernel.name for kernel in isologit.kernels() if kernel.runnable and kernel.arithmetic == "exact"]
KERNELS = [name for name in EXACT if name not in ("torch", "cuda")]


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + 1000 * len(shape) + sum(shape))
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def same(found: torch.Tensor, right: torch.Tensor) -> bool:
    return found.dtype == right.dtype and found.shape == right.shape and torch.equal(found, right)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_norms_gates(dtype):
    x, other = normal(2, 3, 24, dtype=dtype), normal(2, 3, 24, dtype=dtype, seed=1)
    weight, bias = normal(24, dtype=torch.bfloat16), normal(24, dtype=torch.float32)
    matrix = normal(7, 24)
    right = expected.logits(x.reshape(6, 24), matrix, bias[:7], dtype=dtype).reshape(2, 3, 7)
    assert same(forward.linear(x, matrix, bias[:7]), right)
    assert same(forward.rms_norm(x, weight, 1e-6), expected_forward.rms_norm(x, weight, 1e-6))
    right = expected_forward.rms_norm(x, weight, 1e-5, one_plus_weight=True)
    assert same(forward.rms_norm(x, weight, 1e-5, one_plus_weight=True), right)
    assert same(forward.layer_norm(x, weight, bias, 1e-5), expected_forward.layer_norm(x, weight, bias, 1e-5))
    assert same(forward.gate(x, other), expected_forward.silu(x, other))
    exact = (x.double() + 0.5 * other.double()) if dtype != torch.float32 else None
    if exact is not None:  # f64 holds these sums
        right = torch.tensor([expected.round_once(expected.Fraction(v), dtype) for v in exact.reshape(-1).tolist()])
        assert same(forward.residual(x, other, multiplier=0.5), right.to(dtype).reshape(x.shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["halves", "pairs"])
def test_rotary(dtype, layout):
    x = normal(2, 4, 3, 20, dtype=dtype)
    positions = torch.tensor([[0, 1, 2, 3], [7, 4096, 1 << 20, (1 << 31) - 1]])
    frequencies = forward.rotary_frequencies(1e6, 16)
    right = expected_forward.rotary(x, positions, frequencies, layout)
    assert same(forward.rotary(x, positions, frequencies, layout=layout), right)
    # As Transformers lays it out: [batch, heads, tokens, dim] in memory.
    held = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert same(forward.rotary(held, positions, frequencies, layout=layout), right)


def test_frequencies():
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = forward.rotary_frequencies(500000.0, 128)
    scaled = forward.rotary_frequencies(500000.0, 128, llama3)
    assert plain[0] == 1 and torch.equal(plain[:20], scaled[:20]) and torch.equal(scaled[-10:], plain[-10:] / 8)
    close = 500000.0 ** (-torch.arange(0, 128, 2, dtype=torch.float64) / 128)
    assert torch.allclose(plain.double(), close, rtol=2**-23)
    assert torch.equal(forward.rotary_frequencies(1e4, 8, {"type": "linear", "factor": 2.0})[:1], torch.tensor([0.5]))
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    for theta, dim, changes in (
        (1e6, 128, {}),
        (150000.0, 64, {"factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}),
        (1e4, 8, {"factor": 3.3, "original_max_position_embeddings": 20, "beta_fast": 3.0, "beta_slow": 0.5}),
    ):
        found = forward.rotary_frequencies(theta, dim, yarn | changes)
        assert torch.equal(found, expected_forward.yarn(theta, dim, yarn | changes)), changes
    assert forward.rotary_factor(yarn) == torch.tensor(1.1386294361119891).item()
    assert forward.rotary_factor(yarn | {"attention_factor": 0.7}) == torch.tensor(0.7).item()
    assert forward.rotary_factor(yarn | {"mscale": 1.0, "mscale_all_dim": 1.0}) == 1
    with pytest.raises(NotImplementedError, match="leaves no frequency between 1 and 32 turns"):
        forward.rotary_frequencies(1e4, 8, yarn | {"original_max_position_embeddings": 2})
    with pytest.raises(NotImplementedError, match="dynamic"):
        forward.rotary_frequencies(1e4, 8, {"rope_type": "dynamic", "factor": 2.0})


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(dtype):
    q, keys, values = (normal(n, h, d, dtype=dtype) for n, h, d in ((3, 4, 12), (5, 2, 12), (5, 2, 6)))
    for softcap, window, sinks in ((0.0, 0, None), (1.5, 2, normal(4, dtype=torch.float32))):

        def seen(i, window=window):
            return range(max(0, i + 3 - window) if window else 0, i + 3)

        right = expected_forward.attention(q, keys, values, seen, 0.3, softcap, sinks)
        for kernel in KERNELS:
            found = forward.attention(
                q, keys, values, scale=0.3, softcap=softcap, window=window, sinks=sinks, kernel=kernel
            )
            assert same(found, right), kernel


def test_sequences_and_pages_are_the_sequences_alone():
    q, keys, values = normal(9, 4, 16), normal(20, 2, 16), normal(20, 2, 16)
    starts, counts = torch.tensor([0, 5, 9]), torch.tensor([8, 12])
    found = forward.attention(q, keys, values, query_starts=starts, key_counts=counts, scale=0.25)
    assert same(found[:5], forward.attention(q[:5], keys[:8], values[:8], scale=0.25))
    assert same(found[5:], forward.attention(q[5:], keys[8:], values[8:], scale=0.25))
    table = torch.tensor([[3, 0, -1], [2, 5, 1]])
    key_pages, value_pages = torch.full((6, 4, 2, 16), torch.nan), torch.full((6, 4, 2, 16), torch.nan)
    for sequence, first in ((0, 0), (1, 8)):
        for j in range(int(counts[sequence])):
            page = table[sequence, j // 4]
            key_pages[page, j % 4], value_pages[page, j % 4] = keys[first + j].float(), values[first + j].float()
    pages = (key_pages.to(torch.bfloat16), value_pages.to(torch.bfloat16))
    paged = forward.attention(q, *pages, query_starts=starts, key_counts=counts, block_table=table, scale=0.25)
    assert same(paged, found)


def test_layouts_and_batches_do_not_show():
    x, weight = normal(6, 5, 32), normal(32)
    whole = forward.rms_norm(x, weight, 1e-6)
    assert same(forward.rms_norm(x[2:4, 1:3], weight, 1e-6), whole[2:4, 1:3])
    assert same(forward.rms_norm(x.transpose(0, 1), weight, 1e-6), whole.transpose(0, 1))
    strided = torch.empty(6, 5, 64, dtype=x.dtype)[..., ::2]
    strided.copy_(x)
    assert same(forward.rms_norm(strided, weight, 1e-6), whole)
    fused = normal(4, 64)
    assert same(forward.gate(fused[:, :32], fused[:, 32:]), forward.gate(fused[:, :32].clone(), fused[:, 32:].clone()))
    assert forward.rms_norm(x[:0], weight, 1e-6).shape == (0, 5, 32)


def test_refusals():
    x = normal(2, 8)
    with pytest.raises(ValueError, match="x: dtype is torch.float64"):
        forward.rms_norm(x.double(), None, 1e-6)
    with pytest.raises(ValueError, match=r"weight: \[7\]; expected 8 adjacent elements"):
        forward.rms_norm(x, normal(7), 1e-6)
    with pytest.raises(ValueError, match="epsilon"):
        forward.rms_norm(x, None, float("nan"))
    with pytest.raises(NotImplementedError, match="meta"):
        forward.gate(x.to("meta"))
    with pytest.raises(ValueError, match="kind is 'relu'"):
        forward.gate(x, kind="relu")
    with pytest.raises(ValueError, match="positions"):
        forward.rotary(x[None], torch.tensor([0, 1]), forward.rotary_frequencies(1e4, 8))
