"""isologit.sample against CONTRACT.md 4 written again: Philox in Python, and the Gumbel comparison by mpmath."""

import math
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")
import expected  # noqa: E402
from expected import same_bits  # noqa: E402
from mpmath import mp  # noqa: E402
from mpmath.libmp import to_rational  # noqa: E402

import isologit  # noqa: E402
from isologit._inputs import HeadArgs  # noqa: E402
from isologit._support import SupportArgs  # noqa: E402

ROWS, VOCAB, SIZE = 12, 40, 8
RESULTS = ("ids", "logprobs", "cut_logprobs", "log_kept_cut")


def philox(counter, key):
    """Philox4x32-10 (Salmon et al., 2011)."""
    x, (k0, k1) = list(counter), key
    for _ in range(10):
        first, second = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [(second >> 32) ^ x[1] ^ k0, second & 0xFFFFFFFF, (first >> 32) ^ x[3] ^ k1, first & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return x


def uniform(v, seed, sequence_id, position):
    def word(block):
        counter = (block, position, sequence_id & 0xFFFFFFFF, sequence_id >> 32)
        return philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[v % 4]

    return (Fraction(word(v // 4) * 2**32 + word(v // 4 + 2**31)) + Fraction(1, 2)) / 2**64


def cut(z, support, min_p, top_k, top_p):
    """The ids that the cuts leave, and the mass of each id of the support, unnormalised."""
    mass = {v: mp.exp(mp.mpf(z[v])) for v in support}
    order = sorted(support, key=lambda v: (-z[v], v))
    kept = [v for v in order if min_p == 0 or mass[v] >= mp.mpf(min_p) * mass[order[0]]]
    kept = kept[:top_k] if top_k else kept
    wanted, prefix = mp.mpf(top_p) * mp.fsum(mass[v] for v in kept), mp.mpf(0)
    for count, v in enumerate(kept, 1):
        prefix += mass[v]
        if prefix >= wanted:
            return kept[:count], mass
    return kept, mass


def draw(z, support, seed, sequence_id, position, min_p=0.0, top_k=0, top_p=1.0):
    """id, logprob over the support, logprob over the cut, ln of the share that the cut left."""
    with mp.workdps(60):
        kept, mass = cut(z, support, min_p, top_k, top_p)

        def gumbel(v):
            u = uniform(v, seed, sequence_id, position)
            return mp.mpf(z[v]) - mp.log(-mp.log(mp.mpf(u.numerator) / u.denominator))

        chosen = max(kept, key=gumbel)
        whole, left = mp.fsum(mass.values()), mp.fsum(mass[v] for v in kept)
        floats = (mp.log(mass[chosen] / whole), mp.log(mass[chosen] / left), mp.log(left / whole))
        return chosen, *(expected.round_once(Fraction(*to_rational(x._mpf_))) for x in floats)


def head(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, SIZE, generator=generator).bfloat16()
    return hidden, torch.randn(VOCAB, SIZE, generator=generator).bfloat16()


def same_results(one, other, rows=slice(None)):
    return all(same_bits(getattr(one, name), getattr(other, name)[rows]) for name in RESULTS)


def f32(x):
    return torch.tensor(x, dtype=torch.float32).item()


CUTS = [{}, {"min_p": 0.1}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.02, "top_k": 9, "top_p": 0.9}]


@pytest.mark.parametrize("cuts", CUTS)
def test_draws_are_those_of_the_contract(cuts):
    hidden, weight = head()
    seed, sequence_ids, positions = 2**63 + 12345, torch.arange(ROWS) + 2**33, torch.arange(ROWS) * 7
    got = isologit.sample(
        hidden, weight, seed=seed, sequence_id=sequence_ids, position=positions, temperature=0.7, **cuts
    )
    assert got.ids.dtype == torch.int64 and got.logprobs.dtype == torch.float32
    steps = [lambda z: z / Fraction(f32(0.7))]
    z = expected.logits(hidden, weight, transforms=steps).tolist()
    cuts = {name: value if name == "top_k" else f32(value) for name, value in cuts.items()}
    wanted = [draw(z[n], range(VOCAB), seed, int(sequence_ids[n]), int(positions[n]), **cuts) for n in range(ROWS)]
    for name, column in zip(RESULTS, zip(*wanted, strict=True), strict=True):
        value = getattr(got, name)
        assert same_bits(value, torch.tensor(column, dtype=value.dtype)), name
    # The logprobs are what linear_logprobs gives for the ids.
    scored = isologit.linear_logprobs(hidden, weight, got.ids, temperature=0.7).logprobs
    assert same_bits(got.logprobs, scored)


def test_everything_may_differ_by_row():
    hidden, weight = head(1)
    seeds, min_p = torch.arange(ROWS) * 3 - 5, torch.linspace(0, 0.3, ROWS)
    top_k, top_p = torch.arange(ROWS) % 5, torch.linspace(0.3, 1, ROWS)
    temperature = torch.linspace(0.5, 2, ROWS)
    mask = torch.rand(ROWS, VOCAB, generator=torch.Generator().manual_seed(3)) < 0.5
    got = isologit.sample(
        hidden,
        weight,
        seed=seeds,
        sequence_id=4,
        position=9,
        temperature=temperature,
        min_p=min_p,
        top_k=top_k,
        top_p=top_p,
        mask=mask,
    )
    for n in range(ROWS):
        steps = [lambda z, n=n: z / Fraction(temperature[n].item())]
        z = expected.logits(hidden[n : n + 1], weight, transforms=steps)[0].tolist()
        support = mask[n].nonzero().flatten().tolist()
        cuts = (min_p[n].item(), top_k[n].item(), top_p[n].item())
        wanted = draw(z, support, seeds[n].item() % 2**64, 4, 9, *cuts)
        assert tuple(getattr(got, name)[n].item() for name in RESULTS) == wanted
    kept = [row.nonzero().flatten().tolist() for row in mask]
    same = {"temperature": temperature, "min_p": min_p, "top_k": top_k, "top_p": top_p}
    listed = isologit.sample(hidden, weight, seed=seeds, sequence_id=4, position=9, kept=kept, **same)
    assert same_results(listed, got)


def test_temperature_zero_is_greedy():
    hidden, weight = head()
    got = isologit.sample(hidden, weight, seed=1, sequence_id=2, position=3, temperature=0.0, top_p=0.1)
    assert torch.equal(got.ids, isologit.logits(hidden, weight).argmax(-1)) and (got.log_kept_cut == 0).all()
    assert same_bits(got.logprobs, isologit.linear_logprobs(hidden, weight, got.ids).logprobs)


def test_rows_shapes_and_threads_do_not_matter():
    hidden, weight = head()
    ids = torch.arange(ROWS)

    def run(rows, **options):
        return isologit.sample(hidden[rows], weight, seed=5, sequence_id=ids[rows], position=0, top_p=0.9, **options)

    whole = run(slice(None))
    for rows in (slice(3, 4), [7, 2]):
        assert same_results(run(rows), whole, rows)
    for options in ({"threads": 1}, {"kernel": "portable"}):
        assert same_results(run(slice(None), **options), whole)
    shaped = isologit.sample(
        hidden.reshape(3, 4, SIZE), weight, seed=5, sequence_id=ids.reshape(3, 4), position=0, top_p=0.9
    )
    assert shaped.ids.shape == (3, 4) and torch.equal(shaped.ids.flatten(), whole.ids)
    assert isologit.sample(hidden[:0], weight, seed=5, sequence_id=0, position=0).ids.shape == (0,)


def test_torch():
    hidden, weight = head()
    options = {"seed": 5, "sequence_id": torch.arange(ROWS), "position": 2, "top_k": 4}
    wanted = isologit.sample(hidden, weight, **options)
    compiled = torch.compile(isologit.sample, fullgraph=True, backend="aot_eager")
    assert same_results(compiled(hidden, weight, **options), wanted)
    trained = isologit.sample(hidden.requires_grad_(), weight, **options)
    assert not any(getattr(trained, name).requires_grad for name in RESULTS) and torch.equal(trained.ids, wanted.ids)
    one, ones = torch.zeros(1, dtype=torch.int64), torch.ones(1)
    args = (*HeadArgs(hidden.detach(), weight, None, ones, VOCAB), *SupportArgs(), one, one, one, ones * 0.1, one, ones)
    torch.library.opcheck(torch.ops.isologit.sample.default, args)


def test_what_is_refused():
    hidden, weight = head()
    good = {"seed": 1, "sequence_id": 2, "position": 3}
    for name, value, message in (
        ("seed", 2**64, "seed: 18446744073709551616; expected an integer of 64 bits"),
        ("position", 2**32, "position: 4294967296; expected 0 to"),
        ("position", -1, "position: -1; expected 0 to"),
        ("sequence_id", torch.arange(3), r"sequence_id: shape is \[3\]; expected a number, or \[12\]"),
        ("seed", torch.ones(ROWS), "seed: dtype is torch.float32; expected torch.int64"),
        ("top_p", 0.0, "top_p"),
        ("min_p", 1.5, "min_p"),
        ("top_k", -1, "top_k"),
        ("temperature", math.nan, "temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            isologit.sample(hidden, weight, **{**good, name: value})
