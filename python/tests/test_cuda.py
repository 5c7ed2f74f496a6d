"""CUDA tensors: which calls go to the CUDA library, and which to the torch backend. No GPU is needed: the tensors are
fake and so is the library. What they compute, scripts/gpu_check compares."""

import pytest

torch = pytest.importorskip("torch")

import isologit.forward  # noqa: E402
from isologit import _cuda  # noqa: E402
from isologit._inputs import HeadArgs  # noqa: E402
from isologit._sample import SampleArgs, draws_of  # noqa: E402
from isologit._score import score_args as score_args_of  # noqa: E402
from isologit._support import SupportArgs  # noqa: E402
from isologit._torch import cuda  # noqa: E402
from isologit.torch_backend import backward as torch_backend_backward  # noqa: E402
from isologit.torch_backend import given  # noqa: E402
from isologit.torch_backend import score as torch_backend_score  # noqa: E402
from isologit.torch_backend.forward import linears  # noqa: E402


class Recorder:
    """In the place of the library: keeps what it is given."""

    def logits(self, hidden, weight, bias, *, vocab_size=None, dtype=torch.float32, out=None, arithmetic="exact"):
        self.given, self.out, self.arithmetic = (hidden, weight, bias, vocab_size), out, arithmetic
        return torch.empty(hidden.shape[0], vocab_size or weight.shape[0], device=hidden.device, dtype=dtype)

    def score(self, head, token_ids, *, outputs, **options):
        self.given, self.options = (head, token_ids), options
        rows = head.hidden.shape[:1]
        shapes = {name: token_ids.shape if name in ("logprobs", "rank") else rows for name in outputs}
        top_k = (*rows, options["top_k"])
        shapes |= dict.fromkeys(("top_k_ids", "top_k_logprobs"), top_k) if options["top_k"] else {}
        return {name: torch.empty(shape, device="cuda") for name, shape in shapes.items()}

    def sample(self, head, draws, **support):
        self.given, self.options = (head, draws), support
        return {}

    def of_logits(self, logits, output, token_ids, *, temperatures, ignore_index):
        self.given, self.options = (logits, output, token_ids), (temperatures.shape, ignore_index)
        shapes = {"log_softmax": logits.shape, "logprobs": None if token_ids is None else token_ids.shape}
        return torch.empty(shapes.get(output, logits.shape[:1]), device="cuda"), [0, 0]


@pytest.fixture
def library(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(cuda, "library", lambda: recorder)
    with torch._subclasses.FakeTensorMode():  # has devices that the machine lacks
        yield recorder


def tensors(dtype=torch.bfloat16):
    return torch.empty(2, 3, 8, device="cuda", dtype=dtype), torch.empty(5, 8, device="cuda", dtype=dtype)


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


def test_fast_scores_that_are_not_proven_are_an_error(monkeypatch):
    monkeypatch.setattr(cuda, "makes_score", lambda args: True)
    monkeypatch.setattr(cuda, "score", lambda args, summaries: {"status": torch.tensor([1, 0])})
    with pytest.raises(RuntimeError, match="does not prove these scores of fast logits"):
        torch_backend_score.score(*score_args_on_cpu(arithmetic="fast").flat(), "fast", None)


def test_fast_arithmetic_has_fast_gradients_alone(gradients, monkeypatch):
    monkeypatch.setattr(cuda, "makes_backward", lambda *_: False)
    args = score_args_on_cpu(arithmetic="fast")
    wanted = [None, torch.empty(0), torch.empty(0), torch.empty(0), torch.zeros(8, dtype=torch.int64), -100]
    for how in ("fast", "exact"):
        flat = (
            *args.head,
            *args.support,
            *wanted,
            None,
            None,
            torch.ones(2),
            None,
            None,
            how,
            True,
            True,
            False,
            False,
            False,
        )
        with pytest.raises(NotImplementedError, match=f"gradients='{how}' of fast logits"):
            torch_backend_backward.score_backward(*flat)


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


def score_args(**options):
    hidden, weight = tensors()
    ids = torch.empty(2, 3, 4, dtype=torch.int64, device="cuda")
    usual = dict.fromkeys(("mask", "kept", "banned", "bias", "softcap", "scale", "divide", "vocab_size", "processors"))
    usual |= {"temperature": 1.0, "transform_order": "softcap_first", "arithmetic": "exact", "threads": 0, "kernel": ""}
    usual |= {"ignore_index": -100, "outputs": ["logprobs", "entropy"], "top_k": 0, "token_ids": ids}
    token_ids = (usual := usual | options).pop("token_ids")
    return score_args_of(hidden, weight, token_ids, **usual)


def score_args_on_cpu(**options):
    """For the lse of two rows."""
    hidden, weight = torch.ones(2, 8).bfloat16(), torch.ones(5, 8).bfloat16()
    usual = dict.fromkeys(("mask", "kept", "banned", "bias", "softcap", "scale", "divide", "vocab_size", "processors"))
    usual |= {"temperature": 1.0, "transform_order": "softcap_first", "arithmetic": "exact", "threads": 0, "kernel": ""}
    return score_args_of(hidden, weight, None, ignore_index=-100, outputs=["lse"], top_k=0, **(usual | options))


def test_scores_go_to_the_library(library):
    args = score_args(softcap=30.0, scale=2.0, transform_order="scale_first", temperature=0.5, vocab_size=4)
    assert cuda.makes_score(args)
    found = cuda.score(args)
    assert found["logprobs"].shape == (6, 4) and found["entropy"].shape == (6,)
    head = library.given[0]
    assert library.given[1].shape == (6, 4) and head.vocab_size == 4
    assert (head.softcap, head.scale, head.divide, head.scale_first) == (30.0, 2.0, None, True)
    nothing = {"ignores_rows": False, "summaries": None, "top_k": 0, "mask": None}
    assert library.options == {"ignore_index": -100, **nothing}
    one_each = score_args(token_ids=torch.empty(2, 3, dtype=torch.int64, device="cuda"))
    assert cuda.score(one_each)["logprobs"].shape == (6,) and library.given[1].shape == (6, 1)
    # Of several ids a row those that are ignored say nothing of the row.
    assert library.options["ignores_rows"] and cuda.score(args) and not library.options["ignores_rows"]


def test_supports_ranks_and_top_k_go_with_them(library):
    ids = torch.empty(2, 3, dtype=torch.int64, device="cuda")
    asked = {"outputs": ["logprobs", "rank", "log_kept"], "token_ids": ids}
    masked = score_args(mask=torch.empty(2, 3, 5, dtype=torch.bool, device="cuda"), top_k=2, **asked)
    assert cuda.makes_score(masked)
    found = cuda.score(masked)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    of_top = {"top_k_ids": (6, 2), "top_k_logprobs": (6, 2)}
    assert shapes == {"logprobs": (6,), "rank": (6,), "log_kept": (6,)} | of_top
    assert (library.options["mask"].shape, library.options["top_k"]) == ((6, 5), 2)
    assert "kept" not in library.options and "banned" not in library.options
    shared = score_args(mask=torch.empty(5, dtype=torch.bool, device="cuda"), **asked)
    assert cuda.score(shared) and library.options["mask"].shape == (1, 5)


def test_lists_of_ids_go_with_them(library):
    offsets, ids = (torch.empty(size, dtype=torch.int64, device="cuda") for size in (7, 3))
    args = score_args()
    args = args._replace(support=args.support._replace(banned_offsets=offsets, banned_ids=ids))
    assert cuda.makes_score(args) and cuda.score(args)
    assert library.options["banned"] == (offsets, ids) and "kept" not in library.options


@pytest.mark.parametrize(
    "option",
    [{"kernel": "torch"}, {"outputs": ["raw_logprobs"], "token_ids": "one"}, {"outputs": ["mean_logits"]}],
)
def test_scores_that_it_does_not_make(library, option):
    if "token_ids" in option:
        option = option | {"token_ids": torch.empty(2, 3, dtype=torch.int64, device="cuda")}
    assert not cuda.makes_score(score_args(**option))
    assert cuda.makes_score(score_args()._replace(summaries=True))


def sample_args(hidden, weight, **options):
    usual = {"mask": None, "seed": -1, "sequence_id": 2, "position": 2**32 - 1, "min_p": 0.0, "top_k": 0, "top_p": 1.0}
    usual |= {"temperature": 1.0, "transform_order": "softcap_first", "arithmetic": "exact", "threads": 0, "kernel": ""}
    usual |= dict.fromkeys(("bias", "softcap", "scale", "divide", "vocab_size", "processors")) | options
    mask, *draws = (usual.pop(name) for name in ("mask", "seed", "sequence_id", "position", "min_p", "top_k", "top_p"))
    head = HeadArgs.of(hidden, weight, **usual)
    return SampleArgs(head, SupportArgs.of(hidden, head.vocab_size, mask, None, None), *draws_of(hidden, *draws))


def test_samples_go_to_the_library(library):
    mask = torch.empty(2, 3, 5, dtype=torch.bool, device="cuda")
    args = sample_args(*tensors(), mask=mask, temperature=0.5, softcap=3.0, top_p=0.9)
    assert cuda.makes_sample(args)
    cuda.sample(args, ["top_p"])
    head, draws = library.given
    assert head.hidden.shape == (6, 8) and head.softcap == 3.0 and head.temperatures.shape == (1,)
    assert (draws.seeds is args.seeds, draws.sequence_ids is args.sequence_ids) == (True, True)
    assert (draws.min_p, draws.top_k, draws.top_p is args.top_p) == (None, None, True)
    assert library.options["mask"].shape == (6, 5) and "kept" not in library.options
    assert not cuda.makes_sample(sample_args(*tensors(), kernel="torch"))
    assert cuda.makes_sample(sample_args(*tensors(), arithmetic="fast", kernel="cuda_fast"))


def test_what_the_library_is_told_of_draws():
    head = _cuda.Head(torch.ones(3, 8), torch.ones(5, 8))
    positions = torch.tensor([0, 2**31, 2**32 - 1])
    draws = _cuda.Draws(torch.tensor([-1]), torch.tensor([1, 2, 3]), positions, top_k=torch.tensor([4])).checked(head)
    fields = draws.fields()
    counts = [fields[f"{name}_count"] for name in ("seed", "sequence_id", "position", "min_p", "top_k")]
    assert counts == [1, 3, 3, 0, 1]
    assert draws.positions.numpy().view("uint32").tolist() == positions.tolist() and fields["min_p"] is None
    assert fields.keys() <= {name for name, _ in _cuda.SampleRequest._fields_}
    with pytest.raises(ValueError, match="top_p: torch.float64 on cpu; expected torch.float32 on cpu"):
        draws._replace(positions=positions, top_p=torch.ones(1, dtype=torch.float64)).checked(head)


@pytest.fixture
def draws_by_library(monkeypatch):
    """As if tensors on the CPU were the library's: it says that every row draws 4, and what cuts it was given."""
    found = {name: torch.full((3,), 4, dtype=torch.int64 if name == "ids" else None) for name in _cuda.SAMPLES}
    found["status"] = torch.zeros(2, dtype=torch.int32)
    monkeypatch.setattr(cuda, "makes_sample", lambda args: True)

    def sample(args, cuts):
        found["cuts"] = cuts
        return {name: found[name] for name in (*_cuda.SAMPLES, "status")}

    monkeypatch.setattr(cuda, "sample", sample)
    return found


def drawn(**options):
    args = sample_args(torch.ones(3, 8), torch.eye(5, 8), **options)
    return isologit.Samples(*given.sample(*args.flat()))


def test_samples_of_the_library_are_returned(draws_by_library):
    found = drawn(top_p=torch.tensor([1.0, 0.5, 1.0]), min_p=0.0, top_k=torch.tensor([0, 0, 2]))
    assert found.ids.tolist() == [4, 4, 4] and found.log_kept_cut.tolist() == [4.0, 4.0, 4.0]
    assert list(draws_by_library["cuts"]) == ["top_k", "top_p"] and found.report.rows == 3
    assert found.report.kernel == "cuda" and not drawn().report.arithmetic == "fast"
    assert list(draws_by_library["cuts"]) == []


def test_samples_that_the_library_does_not_prove(draws_by_library):
    draws_by_library["status"][0] = 1
    on_cpu = isologit.sample(torch.ones(3, 8), torch.eye(5, 8), seed=-1, sequence_id=2, position=2**32 - 1)
    assert drawn().ids.tolist() == on_cpu.ids.tolist()
    halves = {"hidden": torch.ones(3, 8).bfloat16(), "weight": torch.eye(5, 8).bfloat16()}
    args = sample_args(**halves, arithmetic="fast")
    with pytest.raises(RuntimeError, match="does not prove these samples of fast logits"):
        given.sample(*args.flat())


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"min_p": 1.5}, "min_p"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"position": -1}, "position: -1"),
        ({"temperature": -1.0}, "temperatures"),
    ],
)
def test_wrong_numbers_of_samples_are_refused_before(draws_by_library, option, said):
    with pytest.raises(ValueError, match=said):
        drawn(**option)
    assert "cuts" not in draws_by_library


class Gradients:
    """In the place of the library: gradients of what it is given by plain torch in f64."""

    status = (0, 0)

    def backward(self, head, token_ids, *, summaries, ignore_index, accumulate, **named):
        assert ignore_index == -1 and head.softcap == 3.0 and not head.scale_first
        self.summaries, self.accumulate = summaries, accumulate
        wanted = {name: named.pop(name) for name in ("dhidden", "dweight", "dbias") if name in named}
        vocab = head.vocab_size
        hidden, weight, bias = (x.double() for x in (head.hidden, head.weight, head.bias))
        tanh = torch.tanh((hidden @ weight[:vocab].T + bias[:vocab]) / head.softcap)
        logprobs = torch.log_softmax(head.softcap * tanh / head.temperatures[:, None].double(), -1)
        p = logprobs.exp()
        a = torch.zeros_like(p).scatter_add_(1, token_ids, named["d_logprobs"].double())
        dz = a + p * (named["d_lse"].double()[:, None] - a.sum(1, keepdim=True))
        if "d_entropy" in named:
            entropy = -(p * logprobs).sum(1, keepdim=True)
            dz -= named["d_entropy"].double()[:, None] * p * (logprobs + entropy)
        dz = torch.nn.functional.pad(dz * (1 - tanh * tanh) / head.temperatures[:, None].double(), (0, 2))
        found = (dz @ weight, dz.T @ hidden, dz.sum(0))
        for (name, to), gradient in zip(wanted.items(), found, strict=True):
            to.copy_(gradient.to(to.dtype) + (to if accumulate and name == "dweight" else 0))
        return torch.tensor(self.status)


def gradients_of(kernel, entropy=True, buffer=None):
    generator = torch.Generator().manual_seed(1)
    sizes = ((7, 8), (11, 8), (11,))
    leaves = [torch.randn(size, generator=generator).requires_grad_() for size in sizes]
    ids = torch.randint(0, 9, (7,), generator=generator)
    ids[2] = -100
    scores = isologit.score(
        *leaves[:2],
        ids,
        bias=leaves[2],
        softcap=3.0,
        temperature=0.5,
        vocab_size=9,
        outputs=["logprobs", "lse", *(["entropy"] if entropy else [])],
        kernel=kernel,
        dweight_accumulate=buffer,
    )
    up = torch.linspace(-1, 2, 7)
    loss = (up * scores.logprobs).sum() + (up * up * scores.lse).sum()
    (loss + (scores.entropy.sum() if entropy else 0)).backward()
    return [buffer if x.grad is None else x.grad for x in leaves]


@pytest.fixture
def gradients(monkeypatch):
    """As if tensors on the CPU were the library's."""
    stub = Gradients()
    monkeypatch.setattr(cuda, "library", lambda: stub)
    monkeypatch.setattr(cuda, "makes_score", lambda args: False)
    monkeypatch.setattr(cuda, "makes_backward", lambda *_: True)
    return stub


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_gradients_go_to_the_library_with_all_they_need(gradients, entropy, accumulate):
    buffers = [torch.ones(11, 8) if accumulate else None for _ in range(2)]
    found = gradients_of("torch", entropy, buffers[0])
    right = gradients_of("", entropy, buffers[1])  # the library's of the CPU
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert gradients.accumulate == accumulate and (gradients.summaries is None) == entropy
    assert entropy or gradients.summaries.shape == (7, 5)
    untouched = 1.0 if accumulate else 0.0
    assert found[1][9:].eq(untouched).all() and found[2][9:].eq(0).all()  # rows of padding


def test_gradients_that_the_library_does_not_prove(gradients):
    gradients.status = (1, 0)
    right = gradients_of("")
    for one, other in zip(gradients_of("torch"), right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)  # the core's
    buffer = torch.ones(11, 8)
    with pytest.raises(RuntimeError, match="does not prove"):
        gradients_of("torch", buffer=buffer)
    assert buffer.isnan().all()


def test_gradients_that_it_does_not_make(library):
    args = score_args()
    ids = torch.empty(6, 4, dtype=torch.int64, device="cuda")
    assert cuda.makes_backward(args.head, args.support, ids)
    assert not cuda.makes_backward(args.head._replace(kernel="torch"), args.support, ids)
    assert cuda.makes_backward(args.head._replace(arithmetic="fast"), args.support, ids)
    mask = torch.empty(1, 5, dtype=torch.bool, device="cuda")
    assert not cuda.makes_backward(args.head, args.support._replace(mask=mask), ids)


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


@pytest.mark.parametrize(
    ("status", "error"),
    [(1, ValueError), (2, NotImplementedError), (3, RuntimeError), (5, torch.OutOfMemoryError)],
)
def test_errors_of_the_library(status, error):
    class Native:
        @staticmethod
        def isologit_cuda_self_test(device, arithmetic, message, size):
            message.value = b"what was found"
            return status

    native = object.__new__(_cuda.Library)
    native._library, native._tested = Native, set()
    with pytest.raises(error, match="what was found"):
        native.self_test(1)
    status = 0
    native.self_test(1)
    assert native._tested == {(1, "exact")}  # of this device; others are tested at their own first use
    native.self_test(0, "fast")
    assert native._tested == {(1, "exact"), (0, "fast")}


@pytest.mark.parametrize("name", ["weight", "bias", "out"])
def test_operands_of_several_devices_are_refused(name):
    operands = {"hidden": torch.ones(2, 8), "weight": torch.ones(5, 8), "bias": torch.ones(5), "out": torch.ones(2, 5)}
    operands[name] = operands[name].to("meta")
    with pytest.raises(ValueError, match=f"{name} is on meta and hidden on cpu; expected one device"):
        object.__new__(_cuda.Library).logits(**operands)


def test_out_of_memory_is_torchs_own_before_anything_is_launched(monkeypatch):
    """Results and workspace come from torch's allocator, and are there before the library is called."""
    launched = []
    native = object.__new__(_cuda.Library)
    native._tested = {(-1, "exact")}
    monkeypatch.setattr(_cuda.Library, "_call", lambda self, name, *_: launched.append(name))

    def full(*_, **__):
        raise torch.OutOfMemoryError("full")

    operands = torch.ones(2, 8), torch.ones(5, 8)
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        native.logits(*operands)
    assert launched in ([], ["isologit_cuda_logits_workspace"])
