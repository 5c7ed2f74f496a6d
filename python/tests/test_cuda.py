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
from isologit.torch_backend.forward import linears  # noqa: E402

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
