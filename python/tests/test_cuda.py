"""CUDA tensors: which calls go to the CUDA library, and which to the torch backend. No GPU is needed: the tensors are
fake and so is the library. What they compute, scripts/gpu_check compares."""

import pytest

torch = pytest.importorskip("torch")

import isologit  # noqa: E402
from isologit._score import score_args as score_args_of  # noqa: E402
from isologit._torch import cuda  # noqa: E402
from isologit.torch_backend import given  # noqa: E402


class Recorder:
    """In the place of the library: keeps what it is given."""

    def logits(self, hidden, weight, bias, *, vocab_size):
        self.given = (hidden, weight, bias, vocab_size)
        return torch.empty(hidden.shape[0], vocab_size or weight.shape[0], device=hidden.device)


    def score(self, hidden, weight, token_ids, bias, *, vocab_size, outputs, **options):
        self.given, self.options = (hidden, weight, token_ids, bias, vocab_size), options
        shapes = {name: token_ids.shape if name in ("logprobs", "rank") else hidden.shape[:1] for name in outputs}
        top_k = (hidden.shape[0], options["top_k"])
        shapes |= dict.fromkeys(("top_k_ids", "top_k_logprobs"), top_k) if options["top_k"] else {}
        return {name: torch.empty(shape, device="cuda") for name, shape in shapes.items()}


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


def test_no_rows(library):
    assert isologit.logits(torch.empty(2, 0, 8, device="cuda"), torch.empty(5, 8, device="cuda")).shape == (2, 0, 5)


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": 0.5},
        {"softcap": 30.0},
        {"scale": 2.0},
        {"divide": 2.0},
        {"dtype": torch.bfloat16},
        {"arithmetic": "fast"},
        {"kernel": "torch"},
        {"return_report": True},
    ],
)
def test_what_it_does_not_make_goes_to_the_torch_backend(library, option):
    hidden, weight = tensors()
    assert not cuda.makes(hidden, weight, None, **option) and cuda.makes(hidden, weight, None)
    if "return_report" not in option:  # a fake tensor has no numbers
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


def score_args(**options):
    hidden, weight = tensors()
    ids = torch.empty(2, 3, 4, dtype=torch.int64, device="cuda")
    usual = dict.fromkeys(("mask", "kept", "banned", "bias", "softcap", "scale", "divide", "vocab_size", "processors"))
    usual |= {"temperature": 1.0, "transform_order": "softcap_first", "arithmetic": "exact", "threads": 0, "kernel": ""}
    usual |= {"ignore_index": -100, "outputs": ["logprobs", "entropy"], "top_k": 0, "token_ids": ids}
    token_ids = (usual := usual | options).pop("token_ids")
    return score_args_of(hidden, weight, token_ids, **usual)


def test_scores_go_to_the_library(library):
    args = score_args(softcap=30.0, scale=2.0, transform_order="scale_first", temperature=0.5, vocab_size=4)
    assert cuda.makes_score(args)
    found = cuda.score(args)
    assert found["logprobs"].shape == (6, 4) and found["entropy"].shape == (6,)
    assert library.given[2].shape == (6, 4) and library.given[4] == 4
    said = {name: library.options[name] for name in ("softcap", "scale", "divide", "scale_first", "ignore_index")}
    assert said == {"softcap": 30.0, "scale": 2.0, "divide": None, "scale_first": True, "ignore_index": -100}
    one_each = score_args(token_ids=torch.empty(2, 3, dtype=torch.int64, device="cuda"))
    assert cuda.score(one_each)["logprobs"].shape == (6,) and library.given[2].shape == (6, 1)
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
    assert not cuda.makes_score(score_args()._replace(summaries=True))


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
