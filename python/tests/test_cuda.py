"""CUDA tensors: which calls go to the CUDA library, and what the others are told. No GPU is needed: the tensors are
fake and so is the library. What it computes, scripts/gpu_check compares."""

import pytest

torch = pytest.importorskip("torch")

import isologit  # noqa: E402
from isologit._torch import cuda  # noqa: E402


class Recorder:
    """In the place of the library: keeps what it is given."""

    def logits(self, hidden, weight, bias, *, vocab_size):
        self.given = (hidden, weight, bias, vocab_size)
        return torch.empty(hidden.shape[0], vocab_size or weight.shape[0], device=hidden.device)


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
    ("option", "told"),
    [
        ({"temperature": 0.5}, "temperature is 0.5"),
        ({"softcap": 30.0}, "softcap is 30.0"),
        ({"scale": 2.0}, "scale is 2.0"),
        ({"divide": 2.0}, "divide is 2.0"),
        ({"dtype": torch.bfloat16}, "dtype is torch.bfloat16"),
        ({"arithmetic": "fast"}, "arithmetic is fast"),
        ({"kernel": "avx2"}, "kernel is avx2"),
        ({"return_report": True}, "return_report is True"),
    ],
)
def test_what_it_does_not_make_is_refused(library, option, told):
    with pytest.raises(NotImplementedError, match=f"^{told}, and hidden is on cuda:0; .* pass hidden.cpu"):
        isologit.logits(*tensors(), **option)
    assert not hasattr(library, "given")


def test_temperatures_by_row_are_refused(library):
    hidden, weight = tensors()
    with pytest.raises(NotImplementedError, match="^temperature is a tensor, "):
        isologit.logits(hidden, weight, temperature=torch.ones(2, 3, device="cuda"))
    with pytest.raises(NotImplementedError, match="^dweight_accumulate is a tensor, "):
        isologit.logits(hidden, weight, dweight_accumulate=torch.ones(5, 8, device="cuda"))


def test_gradients_are_refused(library):
    hidden, weight = tensors()
    weight.requires_grad_()
    with pytest.raises(NotImplementedError, match="^weight requires a gradient, "):
        isologit.logits(hidden, weight)
    with torch.no_grad():
        assert isologit.logits(hidden, weight).shape == (2, 3, 5)


def test_other_functions_are_refused(library):
    hidden, weight = tensors()
    ids = torch.zeros(2, 3, dtype=torch.int64)
    for call in (
        lambda: isologit.score(hidden, weight, token_ids=ids),
        lambda: isologit.sample(hidden, weight, seed=1, sequence_id=0, position=0),
        lambda: isologit.linear_cross_entropy(hidden, weight, ids),
    ):
        with pytest.raises(NotImplementedError, match="^hidden is on cuda:0; .* CPU only: pass hidden.cpu"):
            call()


def test_without_the_library():
    assert cuda.library() is None or cuda.LIBRARY.exists()
    if cuda.library() is not None:
        pytest.skip(f"{cuda.LIBRARY} is here")
    with (
        torch._subclasses.FakeTensorMode(),
        pytest.raises(
            NotImplementedError, match="^hidden is on cuda:0, and there is no libisologit_cuda.so in .*/isologit: "
        ),
    ):
        isologit.logits(*tensors())
