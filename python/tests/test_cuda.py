"""CUDA tensors: which calls go to the CUDA library, and which to the torch backend. No GPU is needed: the tensors are
fake and so is the library. What they compute, scripts/gpu_check compares."""

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


def test_without_the_library():
    assert cuda.library() is None or cuda.LIBRARY.exists()
    if cuda.library() is not None:
        pytest.skip(f"{cuda.LIBRARY} is here")
    with torch._subclasses.FakeTensorMode():
        assert isologit.logits(*tensors()).device.type == "cuda"
