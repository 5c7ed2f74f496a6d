"""Scores and samples of CUDA tensors, by what stands in for the CUDA library."""

import pytest

torch = pytest.importorskip("torch")

import cuda_stand_ins  # noqa: E402
from cuda_stand_ins import sample_args, score_args, score_args_on_cpu, tensors  # noqa: E402

import isologit  # noqa: E402
from isologit import _cuda  # noqa: E402
from isologit._torch import cuda  # noqa: E402
from isologit.torch_backend import given  # noqa: E402
from isologit.torch_backend import score as torch_backend_score  # noqa: E402

library = cuda_stand_ins.library


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
    mask = torch.empty(5, dtype=torch.bool, device="cuda")
    for args in (score_args(), score_args(mask=mask)):
        assert cuda.makes_score(args._replace(summaries=True))


def test_fast_scores_that_are_not_proven_are_an_error(monkeypatch):
    monkeypatch.setattr(cuda, "makes_score", lambda args: True)
    monkeypatch.setattr(cuda, "score", lambda args, summaries: {"status": torch.tensor([1, 0])})
    with pytest.raises(RuntimeError, match="does not prove these scores of fast logits"):
        torch_backend_score.score(*score_args_on_cpu(arithmetic="fast").flat(), "fast", None)


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
