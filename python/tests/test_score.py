"""One surface: arrays and tensors, functions and module, every output, against rational arithmetic and mpmath."""

import os
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ml_dtypes = pytest.importorskip("ml_dtypes")
import expected  # noqa: E402
import expected_gradients as by_definition  # noqa: E402
import expected_scores  # noqa: E402
from expected import same_bits  # noqa: E402
from gradient_problem import dz_of, randn, tensors  # noqa: E402

import isologit  # noqa: E402
from isologit import ops  # noqa: E402
from isologit._score import OUTPUTS  # noqa: E402

ROWS, VOCAB, SIZE, TOP_K = 4, 30, 12, 5
TEMPERATURES = [0.7, 1.0, 2.5, 1.0]


def head(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, SIZE, generator=generator).bfloat16()
    weight = torch.randn(VOCAB, SIZE, generator=generator).bfloat16()
    ids = torch.randint(0, VOCAB, (ROWS,), generator=generator)
    mask = torch.rand(ROWS, VOCAB, generator=generator) < 0.6
    mask[torch.arange(ROWS), ids] = torch.tensor([True, True, True, False])
    return hidden, weight, ids, mask


def wanted_of(hidden, weight, ids, mask, top_k=TOP_K):
    """By name, lists of one a row; ids [N, K]."""
    raw = expected.logits(hidden, weight, transforms=[lambda z: z * Fraction(0.375)]).tolist()
    rows = []
    for n in range(len(raw)):
        temperature = Fraction(torch.tensor(TEMPERATURES[n]).item())
        z = [expected.round_once(Fraction(x) / temperature) for x in raw[n]]
        support = mask[n].nonzero().flatten().tolist()
        rows.append(expected_scores.of_row(z, raw[n], support, ids[n].tolist(), top_k))
    return {name: [row[name] for row in rows] for name in rows[0]}


def as_numpy(*tensors):
    return [x.float().numpy().astype(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy() for x in tensors]


def same(got, wanted):
    got = got if isinstance(got, torch.Tensor) else torch.from_numpy(got)
    return same_bits(got, torch.tensor(wanted, dtype=got.dtype).reshape(got.shape))


def surfaces(hidden, weight, ids, mask, **options):
    """The same call by every way there is, with the type that the answer must have."""
    arrays = as_numpy(hidden, weight, ids, mask)
    bits = [x.view(np.uint16) for x in arrays[:2]]
    numbers, temperature = {"scale": 0.375}, torch.tensor(TEMPERATURES)
    numpy = {"temperature": temperature.numpy(), "mask": arrays[3], **options}
    torch_ = {"temperature": temperature, "mask": mask, **options}
    module = isologit.nn.LMHead(torch.nn.Parameter(weight), **numbers)
    yield np.ndarray, isologit.score(*arrays[:3], **numbers, **numpy)
    yield np.ndarray, isologit.score(*bits, arrays[2], dtype="bf16", **numbers, **numpy)
    yield torch.Tensor, isologit.score(hidden, weight, ids, **numbers, **torch_)
    yield torch.Tensor, module.score(hidden, ids, **torch_)


def test_every_output_by_every_way():
    hidden, weight, ids, mask = head()
    wanted = wanted_of(hidden, weight, ids[:, None], mask)
    for kind, got in surfaces(hidden, weight, ids, mask, outputs=list(OUTPUTS), top_k=TOP_K):
        for name in (*OUTPUTS, "top_k_ids", "top_k_logprobs"):
            value = getattr(got, name)
            assert type(value) is kind and same(value.detach() if kind is torch.Tensor else value, wanted[name]), name
        assert got.report.arithmetic == "exact" and got.report.rows == ROWS
        assert got.report.kernel in [kernel.name for kernel in isologit.kernels() if kernel.chosen]


def test_each_output_alone():
    hidden, weight, ids, mask = head(1)
    wanted = wanted_of(hidden, weight, ids[:, None], mask)
    for name in OUTPUTS:
        for _, got in surfaces(hidden, weight, ids, mask, outputs=[name]):
            value = getattr(got, name)
            assert same(value.detach() if isinstance(value, torch.Tensor) else value, wanted[name]), name
            assert sum(other is not None for other in got[:-1]) == 1


def test_several_ids_a_row_and_other_shapes():
    hidden, weight, _, mask = head(2)
    ids = torch.tensor([[0, 3, 3], [29, 1, 2], [7, 7, 7], [5, 6, 8]])
    wanted = wanted_of(hidden, weight, ids, mask)
    for _, got in surfaces(hidden, weight, ids, mask, outputs=("logprobs", "entropy")):
        logprobs, entropy = (x if isinstance(x, np.ndarray) else x.detach().numpy() for x in got[:3:2])
        assert logprobs.shape == (ROWS, 3) and same(logprobs, wanted["logprobs"]) and same(entropy, wanted["entropy"])
    one = isologit.score(as_numpy(hidden)[0][1], as_numpy(weight)[0], 4)
    assert one.logprobs.shape == () and isologit.score(hidden[1], weight, 4).logprobs.shape == ()
    assert isologit.score(hidden.reshape(2, 2, SIZE), weight, ids.reshape(2, 2, 3)).logprobs.shape == (2, 2, 3)
    for name in ("rank", "raw_logprobs"):
        with pytest.raises(ValueError, match=f"'{name}' needs one id a row; token_ids has 3"):
            isologit.score(hidden, weight, ids, outputs=[name])


def test_samples_of_arrays_are_those_of_the_contract():
    from test_sample import RESULTS, draw

    hidden, weight, _, mask = head(3)
    arrays = as_numpy(hidden, weight, mask)
    seeds = np.array([1, 2**64 - 1, 3, 4], np.uint64)
    module = isologit.nn.LMHead(torch.nn.Parameter(weight))
    z = expected.logits(hidden, weight).tolist()
    wanted = [
        draw(z[n], mask[n].nonzero().flatten().tolist(), int(seeds[n]), 5, 6 + n, min_p=0.0625, top_k=9, top_p=0.75)
        for n in range(ROWS)
    ]
    cuts = {"min_p": 0.0625, "top_k": 9, "top_p": 0.75}
    numpy = isologit.sample(
        arrays[0], arrays[1], seed=seeds, sequence_id=5, position=np.arange(6, 10), mask=arrays[2], **cuts
    )
    by_torch = {"seed": torch.from_numpy(seeds), "sequence_id": 5, "position": torch.arange(6, 10), "mask": mask}
    for got in (numpy, isologit.sample(hidden, weight, **by_torch, **cuts), module.sample(hidden, **by_torch, **cuts)):
        for name, column in zip(RESULTS, zip(*wanted, strict=True), strict=True):
            assert same(getattr(got, name), column), name
        assert got.report.kernel in [kernel.name for kernel in isologit.kernels()]
    assert isinstance(numpy.ids, np.ndarray)


# What is filled in changes nothing


NO_STEPS = [
    {},
    {"temperature": 1.0},
    {"temperature": [1.0, 1.0]},
    {"scale": 1.0},
    {"divide": 1.0},
    {"scale": 1.0, "temperature": 1.0},
    {"divide": 1.0, "temperature": [1.0, 1.0]},
]


def doubly_rounded(dtype):
    """Logits just above the middle of two numbers of dtype, which f32 would put on it."""
    digits = expected.FORMATS[dtype][0]
    weight = torch.tensor([[1, 2.0**-digits, 2.0**-60], [1, -(2.0**-digits) / 2, -(2.0**-60)], [2, 0.5, 0]])
    return torch.tensor([[1.0, 1, 1], [-1, -1, -1]]), weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", NO_STEPS)
def test_narrow_logits_are_rounded_once_by_every_way(dtype, options):
    hidden, weight = doubly_rounded(dtype)
    wanted = expected.logits(hidden, weight, dtype=dtype)
    twice = expected.logits(hidden, weight, dtype=torch.float32).to(dtype)
    assert not same_bits(wanted, twice)
    named = {torch.bfloat16: (ml_dtypes.bfloat16, np.uint16), torch.float16: (np.float16,)}[dtype]
    numbers = {key: np.array(value, np.float32) if isinstance(value, list) else value for key, value in options.items()}
    for arithmetic in ("exact", "fast"):
        for kind in named:
            got = isologit.logits(hidden.numpy(), weight.numpy(), dtype=kind, arithmetic=arithmetic, **numbers)
            got = torch.from_numpy(got.view(np.int16)).view(dtype)
            assert same_bits(got, wanted if arithmetic == "exact" else twice), kind
        tensors = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in options.items()}
        got = isologit.logits(hidden, weight, dtype=dtype, arithmetic=arithmetic, **tensors)
        assert same_bits(got, wanted if arithmetic == "exact" else twice)
    if not options:
        narrow = hidden.to(dtype)
        assert same_bits(narrow.float(), hidden)
        for op in (ops.get_op("lm_head"), ops.LMHeadOp("cpu")):
            assert same_bits(op(narrow, weight), wanted)


def test_rows_at_temperature_one_are_rounded_once_beside_others():
    hidden, weight = doubly_rounded(torch.bfloat16)
    got = isologit.logits(hidden, weight, dtype=torch.bfloat16, temperature=torch.tensor([1.0, 3.0]))
    assert same_bits(got[:1], expected.logits(hidden[:1], weight, dtype=torch.bfloat16))
    thirds = expected.logits(hidden[1:], weight, dtype=torch.bfloat16, transforms=[lambda z: z / 3])
    assert same_bits(got[1:], thirds)


DEFAULTS = {
    "temperature": 1.0,
    "softcap": None,
    "scale": None,
    "divide": None,
    "transform_order": "softcap_first",
    "vocab_size": VOCAB,
    "ignore_index": -100,
    "mask": None,
    "kept": None,
    "banned": None,
    "top_k": 0,
    "arithmetic": "exact",
    "gradients": "fast",
    "threads": 0,
    "processors": None,
    "kernel": "",
}


def test_defaults_that_are_said_are_those_that_are_filled_in():
    hidden, weight, ids, _ = head(4)
    everything = torch.ones(ROWS, VOCAB, dtype=torch.bool)
    z = expected.logits(hidden, weight).tolist()
    rows = [expected_scores.of_row(z[n], z[n], list(range(VOCAB)), [ids[n].item()]) for n in range(ROWS)]
    arrays = as_numpy(hidden, weight, ids)
    said = [{}, DEFAULTS, {"scale": 1.0}, {"divide": 1.0}, {"mask": everything[0]}, {"mask": everything}]
    for options in said + [{"banned": [[]] * ROWS}, {"kept": [range(VOCAB)] * ROWS}]:
        numpy = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
        module = isologit.nn.LMHead(torch.nn.Parameter(weight))
        for got in (
            isologit.score(hidden, weight, ids, outputs=list(OUTPUTS), **options),
            isologit.score(*arrays, outputs=list(OUTPUTS), **numpy),
            module.score(hidden, ids, outputs=list(OUTPUTS), **options),
        ):
            for name in OUTPUTS:
                value = getattr(got, name)
                value = value.detach() if isinstance(value, torch.Tensor) else value
                assert same(value, [row[name] for row in rows]), (name, options)


def test_an_id_that_is_the_default_ignore_index_is_ignored_by_every_way():
    hidden, weight, ids, _ = head(5)
    ids[1] = -100
    for got in (isologit.score(hidden, weight, ids), isologit.score(*as_numpy(hidden, weight, ids))):
        assert got.logprobs[1] == 0 and (got.logprobs[[0, 2, 3]] != 0).all() and got.report.rows == ROWS - 1


# Which kernel made it


def two_fast_kernels():
    fast = (kernel for kernel in isologit.kernels() if kernel.runnable and kernel.arithmetic == "fast")
    names = [kernel.name for kernel in fast if kernel.name != "cuda_fast"]
    if len(names) < 2:
        pytest.skip("this machine runs one kernel of fast arithmetic")
    return names[0], "portable_fast"


def test_every_result_names_its_kernel_and_arithmetic():
    hidden, weight, ids, _ = head()
    arrays = as_numpy(hidden, weight, ids)
    for name, arithmetic in (("portable", "exact"), ("portable_fast", "fast"), ("reference", "exact")):
        how = {"kernel": name, "arithmetic": arithmetic}
        draws = {"seed": 1, "sequence_id": 2, "position": 3, **how}
        for h, w, t in ((hidden, weight, ids), arrays):
            for report in (
                isologit.score(h, w, t, **how).report,
                isologit.linear_logprobs(h, w, t, **how).report,
                isologit.logits(h, w, return_report=True, **how)[1],
                isologit.sample(h, w, **draws).report,
                isologit.linear_cross_entropy(h, w, t, return_report=True, **how)[1],
            ):
                assert (report.kernel, report.arithmetic, report.rows) == (name, arithmetic, ROWS)
    compiled = torch.compile(isologit.score, fullgraph=True, backend="aot_eager")
    assert compiled(hidden, weight, ids, kernel="portable").report.kernel == "portable"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("what", ["logprobs", "logits"])
def test_backward_takes_the_kernel_of_forward_whatever_the_environment_says_by_then(monkeypatch, what, compiled):
    other, mine = two_fast_kernels()
    hidden, weight, _, ids = tensors(torch.float32, torch.float32)
    with torch.no_grad():  # sums whose order matters
        hidden *= torch.logspace(-4, 4, hidden.shape[1], base=2)
    z = isologit.logits(hidden, weight, arithmetic="fast", kernel=mine).detach()
    assert not same_bits(z, isologit.logits(hidden, weight, arithmetic="fast", kernel=other).detach())
    upstream = randn(len(ids))

    def forward(hidden, weight):
        if what == "logits":
            return isologit.logits(hidden, weight, softcap=4.0, arithmetic="fast", gradients="exact")
        return isologit.linear_logprobs(hidden, weight, ids, softcap=4.0, arithmetic="fast", gradients="exact").logprobs

    forward = torch.compile(forward, fullgraph=True, backend="aot_eager") if compiled else forward
    monkeypatch.setitem(os.environ, "ISOLOGIT_KERNEL", mine)
    made = forward(hidden, weight)
    monkeypatch.setitem(os.environ, "ISOLOGIT_KERNEL", other)
    if what == "logits":
        transforms = by_definition.Transforms([1.0] * len(ids), softcap=4.0)
        upstream = randn(*z.shape)
        with by_definition.mp.workdps(by_definition.DIGITS):
            dz = [
                [
                    by_definition.round_once(by_definition.fraction(by_definition.real(g) * transforms.slope(n, x)))
                    for g, x in zip(upstream[n].tolist(), z[n].tolist(), strict=True)
                ]
                for n in range(len(ids))
            ]
    else:
        none, z0 = torch.zeros(len(ids)), [[Fraction(x) for x in row] for row in z.tolist()]
        dz = dz_of(hidden, weight, None, ids[:, None], upstream[:, None], none, none, z0=z0, softcap=4.0)
    got = torch.autograd.grad(made, [hidden, weight], upstream)
    wanted = by_definition.gradients(dz, hidden.detach(), weight.detach())
    assert same_bits(got[0], wanted[0]) and same_bits(got[1], wanted[1])


# What is refused


def test_kinds_are_not_mixed():
    hidden, weight, ids, _ = head()
    arrays = as_numpy(hidden, weight, ids)
    for call in (isologit.logits, lambda h, w: isologit.score(h, w, ids)):
        with pytest.raises(TypeError, match="hidden is a tensor, weight is an array; expected numpy arrays or torch"):
            call(hidden, arrays[1])
        with pytest.raises(TypeError, match="hidden is an array, weight is a tensor"):
            call(arrays[0], weight)
    with pytest.raises(TypeError, match="bias is an array"):
        isologit.logits(hidden, weight, bias=np.zeros(VOCAB, np.float32))
    with pytest.raises(TypeError, match="dweight_accumulate is given; expected None beside numpy arrays"):
        isologit.score(*arrays, dweight_accumulate=torch.zeros(VOCAB, SIZE))
    with pytest.raises(ValueError, match="logits: dtype is float64"):
        isologit.logits(arrays[0], arrays[1], dtype=np.float64)


@pytest.mark.parametrize("name", ["score", "logits", "sample", "linear_logprobs", "linear_cross_entropy"])
def test_help_is_enough(name):
    """Every argument is told, and what is shared by several docstrings has found its place in them."""
    import inspect

    function = getattr(isologit, name)
    text = inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters.values():
        listed = "**options" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
        lines = [line for line in text.splitlines() if not line.startswith(" ")]
        assert any(listed in line.split(" : ")[0].split(", ") for line in lines), listed
    assert "<" not in text and all(part in text for part in ("Parameters\n---", "Returns\n---"))
