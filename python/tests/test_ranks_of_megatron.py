"""Megatron Core's GPTModel, split over two ranks, its sequence too: isologit's results of the whole, and the gradients."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if not torch.distributed.is_available():
    pytest.skip("torch has no distributed package here", allow_module_level=True)
import forked  # noqa: E402
from adapters import package  # noqa: E402


def test_a_model_that_is_split_over_ranks():
    with package("megatron"):
        ranks = forked.told("ranks_of_megatron.py")
    assert len(ranks) == 2
    for found in ranks:
        assert len(found) == 4
        for case, off in found.items():
            assert all(off.pop(name) == 0 for name in ("logprobs", "entropy", "rank")), case
            # Megatron's own are sums in f32.
            assert off.pop("beside Megatron's loss") < 2.0**-21 and off.pop("beside its gradients") < 2.0**-18, case
            assert not off
