"""CUDA tensors: which calls go to the CUDA library, and which to the torch backend. No GPU is needed: the tensors are
fake and so is the library. What they compute, scripts/gpu_check compares."""

import pytest

torch = pytest.importorskip("torch")

import cuda_stand_ins  # noqa: E402
from cuda_stand_ins import score_args, score_args_on_cpu, tensors  # noqa: E402

import isologit.forward  # noqa: E402
from isologit._torch import cuda  # noqa: E402
from isologit.torch_backend import given  # noqa: E402
from isologit.torch_backend import score as torch_backend_score  # noqa: E402
from isologit.torch_backend.forward import attention, gates, linears, norms, rotary  # noqa: E402

library = cuda_stand_ins.library


def test_logits_go_to_the_library(library):
    hidden, weight = tensors()
    result = isologit.logits(hidden, weight)
    assert (result.shape, result.dtype, result.device.type) == ((2, 3, 5), torch.float32, "cuda")
    rows, given_weight, bias, vocab_size = library.given
    assert (rows.shape, given_weight is weight, bias, vocab_size) == ((6, 8), True, None, None)


def test_bias_and_vocab_size_go_with_them(library):
    hidden, weight = tensors()
    bias = torch.empty(5, device="cuda")
    result = isologit.logits(hidden, weight, bias=bias, vocab_size=4, dtype=torch.float32)
    assert result.shape == (2, 3, 4) and library.given[2] is bias and library.given[3] == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_in_narrow_types(library, dtype):
    assert isologit.logits(*tensors(), dtype=dtype).dtype == dtype and hasattr(library, "given")


def test_fast_logits_and_scores_go_to_the_library(library):
    for kernel in ("", "cuda_fast"):
        assert isologit.logits(*tensors(), arithmetic="fast", kernel=kernel).dtype == torch.float32
        assert library.arithmetic == "fast"
        args = score_args(arithmetic="fast", kernel=kernel)
        assert cuda.makes_score(args)
        cuda.score(args)
        assert library.given[0].arithmetic == "fast"
    assert not cuda.makes_score(score_args(kernel="cuda_fast"))
    assert not cuda.makes_score(score_args(arithmetic="fast", kernel="cuda"))
    for hidden, weight in (tensors(torch.float32), (tensors()[0], tensors(torch.float16)[1])):
        assert not cuda.makes(hidden, weight, None, arithmetic="fast")


def test_the_exact_kernel_by_its_name(library):
    isologit.logits(*tensors(), kernel="cuda")
    assert library.arithmetic == "exact" and cuda.makes_score(score_args(kernel="cuda"))
    z = torch.empty(2, 5, device="cuda")
    assert cuda.makes_of_logits(z, None, "cuda") and not cuda.makes_of_logits(z, None, "torch")


@pytest.mark.parametrize("kernel", ["cuda", "cuda_fast"])
def test_a_kernel_of_cuda_is_refused_where_the_library_does_not_make_the_call(kernel):
    args = score_args_on_cpu(kernel=kernel)
    with pytest.raises(ValueError, match=f"kernel is '{kernel}', which does not make this"):
        torch_backend_score.score(*args.flat(), "fast", None)
    with pytest.raises(ValueError, match=f"kernel is '{kernel}', which does not make this"):
        isologit.logits(torch.zeros(1, 2), torch.zeros(3, 2), kernel=kernel)


@pytest.mark.parametrize(("arithmetic", "kernel"), [("exact", "cuda"), ("fast", "cuda_fast")])
def test_kernels_are_listed_and_reported(monkeypatch, arithmetic, kernel):
    listed = {kernel.name: kernel for kernel in isologit.kernels()}[kernel]
    assert listed.arithmetic == arithmetic and listed.runnable == cuda.LIBRARY.exists()
    monkeypatch.setattr(cuda, "makes_score", lambda args: True)
    found = {"lse": torch.zeros(2), "status": torch.zeros(2, dtype=torch.int32)}
    monkeypatch.setattr(cuda, "score", lambda args, summaries: found)
    args = score_args_on_cpu(arithmetic=arithmetic)
    results = torch_backend_score.Results(*torch_backend_score.score(*args.flat(), "fast", None))
    report = isologit.Report.of(results.counts)
    assert (report.kernel, report.arithmetic, report.rows) == (kernel, arithmetic, 2)


def test_no_rows(library):
    assert isologit.logits(torch.empty(2, 0, 8, device="cuda"), torch.empty(5, 8, device="cuda")).shape == (2, 0, 5)


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": 0.5},
        {"softcap": 30.0},
        {"scale": 2.0},
        {"divide": 2.0},
        {"dtype": torch.bfloat16, "scale": 2.0},
        {"arithmetic": "fast", "dtype": torch.bfloat16},
        {"arithmetic": "fast", "softcap": 3.0},
        {"kernel": "cuda_fast"},
        {"kernel": "cuda", "arithmetic": "fast"},
        {"kernel": "torch"},
        {"return_report": True},
    ],
)
def test_what_it_does_not_make_goes_to_the_torch_backend(library, option):
    hidden, weight = tensors()
    assert not cuda.makes(hidden, weight, None, **option) and cuda.makes(hidden, weight, None)
    if {"return_report", "arithmetic"}.isdisjoint(option) and option.get("kernel") != "cuda_fast":
        result = isologit.logits(hidden, weight, **option)
        assert (result.shape, result.device.type) == ((2, 3, 5), "cuda")
    assert not hasattr(library, "given")


def test_a_low_rank_addition_does_not_go_to_the_library(library):
    lora = torch.empty(1, 8, device="cuda"), torch.empty(5, 1, device="cuda"), 1.0
    with pytest.raises(NotImplementedError, match="lora a is on cuda"):
        isologit.logits(*tensors(), lora=lora)
    assert not hasattr(library, "given")


def test_gradients_go_to_the_torch_backend(library):
    hidden, weight = tensors()
    weight.requires_grad_()
    assert not cuda.makes(hidden, weight, None)
    with torch.no_grad():
        assert isologit.logits(hidden, weight).shape == (2, 3, 5)
    assert library.given[1] is weight


def test_linears_go_to_the_library(library):
    x, weight = tensors()
    bias = torch.empty(5, device="cuda")
    assert isologit.forward.linear(x, weight, bias).shape == (2, 3, 5)  # by the operator, which is fake here
    y = linears.linear(x, weight, bias, 0, [], "")
    assert (y.shape, y.dtype) == ((2, 3, 5), torch.bfloat16)
    assert library.given[0].shape == (6, 8) and library.given[1:3] == (weight, bias)
    assert (library.out.shape, library.out.dtype) == ((6, 5), torch.bfloat16)


def test_gradients_of_linears_go_to_the_library(library):
    x, weight = tensors()
    bias, dy = torch.empty(5, device="cuda"), torch.empty(2, 3, 5, device="cuda", dtype=torch.bfloat16)
    wanted = {0: ((6, 5), (8, 5)), 1: ((5, 6), (8, 6)), 2: ((5, 6), (1, 6))}
    for place, (left, right) in wanted.items():
        found = linears.linear_backward(x, weight, bias, dy, [place == i for i in range(3)], 0, [], "")
        assert found[place].shape == (x, weight, bias)[place].shape
        assert library.given[0].shape == left and library.given[1].shape == right and library.given[2] is None
        assert library.out.dtype == (x, weight, bias)[place].dtype


def test_linears_that_it_does_not_make(library):
    x, weight = torch.ones(3, 8), torch.ones(5, 8)
    out = torch.empty(3, 5)
    assert not cuda.linear(x, weight, None, out) and not hasattr(library, "given")  # on the CPU
    wide = torch.empty(1, 1 << 21, device="cuda")
    assert not cuda.linear(wide, wide, None, out)


RUNNING = 0, [], ""


def heads(dtype=torch.bfloat16):
    """[3, 2, 4, 8], whose tokens do not lie one after another."""
    return torch.empty(2, 3, 4, 8, device="cuda", dtype=dtype).transpose(0, 1)


def test_norms_go_to_the_library(library):
    x, weight = tensors()[0], torch.empty(8, device="cuda")
    y = norms.rms_norm(x, weight, 0.1, True, *RUNNING)
    rows, given_weight, epsilon, one_plus_weight, to = library.given
    assert (y.shape, y.dtype, rows.shape, to.shape) == (x.shape, x.dtype, (6, 1, 8), (6, 1, 8))
    assert given_weight is weight and one_plus_weight and epsilon == pytest.approx(0.1) and epsilon != 0.1  # f32's
    assert norms.rms_norm(x, None, 1e-6, False, *RUNNING).shape == x.shape and library.given[1] is None


def test_residuals_go_to_the_library(library):
    x, y = tensors()[0], tensors()[0]
    for b in (None, y):
        assert linears.residual(x, y, b, 0.5, *RUNNING).shape == x.shape
        shapes = [None if z is None else z.shape for z in library.given[:3]]
        assert shapes == [(6, 1, 8), (6, 1, 8), None if b is None else (6, 1, 8)]
        assert library.given[3] == 0.5 and library.given[4].shape == (6, 1, 8)


def test_gates_go_to_the_library(library):
    g = tensors()[0]
    for code, kind in enumerate(("silu", "gelu_tanh", "relu_squared", "clamped_swish")):
        for up in (None, g):
            assert gates.gate(g, up, kind, 1.5, 7.0, *RUNNING).shape == g.shape
            assert library.given[2:5] == (code, 1.5, 7.0) and (library.given[1] is None) == (up is None)


def test_rotary_embeddings_go_to_the_library(library):
    x, positions = heads(), torch.empty(3, 2, dtype=torch.int32, device="cuda")
    y = rotary.rotary(x, positions, torch.empty(3, device="cuda"), "pairs", 1.25, *RUNNING)
    given, places, frequencies, layout, factor, to = library.given
    assert (y.shape, given.shape, to.shape, layout, factor) == (x.shape, (6, 4, 8), (6, 4, 8), 1, 1.25)
    assert (places.shape, places.dtype, frequencies.shape) == ((6,), torch.int64, (3,))


def attended(dtype=torch.bfloat16, **changed):
    """What attention is given of 6 tokens of 4 heads, 9 keys of 2, without the last three arguments."""
    usual = {
        "q": torch.empty(6, 4, 8, device="cuda", dtype=dtype),
        "keys": torch.empty(9, 2, 8, device="cuda", dtype=dtype),
        "values": torch.empty(9, 2, 5, device="cuda", dtype=dtype),
        "query_starts": torch.empty(3, dtype=torch.int64, device="cuda"),
        "key_counts": torch.empty(2, dtype=torch.int32, device="cuda"),
        "first_keys": None,
        "block_table": None,
        "sinks": torch.empty(4, device="cuda"),
        "scale": 0.1,
        "softcap": 30.0,
        "causal": True,
        "window": 7,
    }
    return list((usual | changed).values())


@pytest.mark.parametrize("paged", [False, True])
def test_attention_goes_to_the_library(library, paged):
    pages = {name: torch.empty(3, 16, 2, 8, device="cuda").bfloat16() for name in ("keys", "values")}
    given = attended(**(pages | {"block_table": torch.empty(2, 2, device="cuda").int()} if paged else {}))
    y = attention.attention(*given, *RUNNING)
    q, keys, values, lists, sinks, numbers, to = library.given
    assert (y.shape, to is y) == ((6, 4, values.shape[-1]), True)
    assert q is given[0] and keys is given[1] and values is given[2] and sinks is given[7]
    assert all(x is expected for x, expected in zip(lists, given[3:7], strict=True))
    assert numbers == (pytest.approx(0.1), 30.0, True, 7) and numbers[0] != 0.1  # f32's


def test_attention_that_the_library_does_not_make(library):
    def makes(dtype=torch.bfloat16, **changed):
        q, keys, values, *lists_and_numbers = attended(dtype, **changed)
        y = torch.empty(*q.shape[:2], values.shape[-1], device=q.device, dtype=dtype)
        lists, (sinks, *numbers) = lists_and_numbers[:4], lists_and_numbers[4:]
        return cuda.attention(q, keys, values, tuple(lists), sinks, tuple(numbers), y)

    def on_cuda(*shape, dtype=torch.bfloat16):
        return torch.empty(*shape, device="cuda", dtype=dtype)

    pages, table = {name: on_cuda(3, 16, 2, 8) for name in ("keys", "values")}, on_cuda(2, 2, dtype=torch.int32)
    changes = [
        {"q": torch.empty(6, 4, 8).bfloat16()},
        {"q": on_cuda(0, 4, 8)},
        {"q": on_cuda(6, 4, 7)},
        {"q": on_cuda(6, 3, 8)},
        {"q": on_cuda(6, 4, 257), "keys": on_cuda(9, 2, 257)},
        {"values": on_cuda(9, 2, 257)},
        {"values": on_cuda(9, 2, 0)},
        {"values": on_cuda(8, 2, 5)},
        {"keys": on_cuda(9, 2, 8, dtype=torch.float16)},
        {"keys": on_cuda(1, 1, 8).expand(2**31, 1, 8), "values": on_cuda(1, 1, 8).expand(2**31, 1, 8)},
        {"key_counts": on_cuda(0, dtype=torch.int64)},
        {"scale": 0.0},
        {"scale": float("inf")},
        {"softcap": float("nan")},
        {"softcap": -1.0},
        {"window": -1},
        pages | {"block_table": on_cuda(1, 1, dtype=torch.int32).expand(2, 2**28)},
    ]
    for change in changes:
        assert not makes(**change), change
    assert not makes(torch.float32) and not hasattr(library, "given")
    assert makes() and makes(torch.float16) and makes(**pages, block_table=table)


def test_operators_that_the_library_does_not_make(library):
    x, y = tensors()[0], tensors()[0]
    positions, frequencies = torch.empty(2, dtype=torch.int64, device="cuda"), torch.empty(3, device="cuda")
    wide = torch.empty(1, (1 << 20) + 1, device="cuda")
    for other in (torch.ones(2, 8), torch.empty(0, 8, device="cuda")):
        assert not cuda.rms_norm(other, None, 1e-6, False, y)
    assert not cuda.rms_norm(wide, None, 1e-6, False, wide)
    assert not cuda.residual(torch.empty(1, 1, device="cuda").expand(1 << 31, 1), y, None, 1.0, y)
    for epsilon in (-1.0, float("inf"), float("nan")):  # the core says what is wrong
        assert not cuda.rms_norm(x, None, epsilon, False, y)
    assert not cuda.residual(x, x, None, float("nan"), y)
    assert not cuda.gate(x, None, "silu", 0.0, 7.0, y) and not cuda.gate(x, None, "silu", 1.0, 0.0, y)
    assert not cuda.rotary(x, positions, frequencies, "halves", float("inf"), y)
    assert not cuda.rotary(x, positions, torch.empty(5, device="cuda"), "halves", 1.0, y)
    assert not hasattr(library, "given")


def test_operators_by_the_torch_backends_name_do_not_use_the_library(monkeypatch):
    recorder, x = cuda_stand_ins.Recorder(), torch.ones(2, 3, 8)
    monkeypatch.setattr(cuda, "library", lambda: recorder)
    monkeypatch.setattr(cuda, "_makes_rows", lambda x: True)
    operators = {
        norms.rms_norm: (x, None, 1e-6, False),
        linears.residual: (x, x, None, 1.0),
        gates.gate: (x, x, "silu", 1.0, 1.0),
        rotary.rotary: (x, torch.arange(2), torch.ones(4), "halves", 1.0),
        attention.attention: (x, x, x, torch.tensor([0, 2]), torch.tensor([2]), None, None, None, 1.0, 0.0, True, 0),
    }
    monkeypatch.setattr(cuda, "_makes_attention", lambda *_: True)
    for operator, arguments in operators.items():
        assert operator(*arguments, 0, [], "torch").shape == x.shape and not hasattr(recorder, "given")
        operator(*arguments, *RUNNING)
        assert hasattr(recorder, "given")
        del recorder.given


@pytest.mark.parametrize("status", [[0, 0], [1, 0], [0, 2]])
def test_what_is_left_open_or_wrong_is_not_the_librarys(monkeypatch, status):
    class Library:
        def rotary(self, *_):
            return torch.tensor(status, dtype=torch.int32)

        gate = attention = rotary

    monkeypatch.setattr(cuda, "library", Library)
    monkeypatch.setattr(cuda, "_makes_attention", lambda *_: True)
    monkeypatch.setattr(cuda, "_makes_rows", lambda x: True)
    x, made = torch.ones(2, 8), status == [0, 0]
    assert cuda.gate(x, None, "silu", 1.0, 1.0, torch.empty(2, 8)) == made
    assert cuda.rotary(x.view(2, 1, 8), torch.arange(2), torch.ones(4), "halves", 1.0, torch.empty(2, 1, 8)) == made
    assert cuda.attention(x, x, x, (None,) * 4, None, (1.0, 0.0, True, 0), x) == made


@pytest.mark.parametrize("output", ["log_softmax", "logprobs", "entropy", "lse"])
def test_results_of_given_logits_go_to_the_library(library, monkeypatch, output):
    # Fake tensors have no numbers to look at.
    monkeypatch.setattr(given.core, "check_temperatures", lambda *_: None)
    monkeypatch.setattr(given.core, "check_ids", lambda *_: None)
    logits = torch.empty(6, 5, dtype=torch.bfloat16, device="cuda")
    ids = torch.empty(6, 2, dtype=torch.int64, device="cuda") if output == "logprobs" else None
    rest = torch.empty(6, device="cuda"), ids, -100, output, 0, []
    found = given.of_logits(logits, *rest, "")
    assert found.shape == {"log_softmax": (6, 5), "logprobs": (6, 2)}.get(output, (6,))
    assert library.given == (logits, output, ids) and library.options == ((6,), -100)
    assert not cuda.makes_of_logits(logits, ids, "torch")
    assert not cuda.makes_of_logits(torch.empty(6, 5), ids, "")
    assert not cuda.makes_of_logits(torch.empty(0, 5, device="cuda"), ids, "")


def test_without_the_library():
    assert cuda.library() is None or cuda.LIBRARY.exists()
    if cuda.library() is not None:
        pytest.skip(f"{cuda.LIBRARY} is here")
    with torch._subclasses.FakeTensorMode():
        assert isologit.logits(*tensors()).device.type == "cuda"
