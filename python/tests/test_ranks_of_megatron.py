"""Megatron Core's GPTModel, split over two ranks, its sequence too, by the adapters of Megatron, verl, SkyRL
and NeMo-RL: results have the bits of one process and the whole head, and the model its gradients."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if not torch.distributed.is_available():
    pytest.skip("torch has no distributed package here", allow_module_level=True)
import forked  # noqa: E402
from adapters import package  # noqa: E402

# Megatron's own are sums in f32.
BOUNDS = {"beside Megatron's loss": 2.0**-21, "beside its gradients": 2.0**-18}
NUMBERS = {"of_megatron": 5, "of_exact": 5, "of_skyrl": 3, "of_nemo_rl": 4, "of_verl": 4}
WITH_A_SPLIT_SEQUENCE = ("of_nemo_rl", "of_verl")


@pytest.fixture(scope="module")
def ranks():
    with package("megatron"), package("verl"), package("skyrl"):
        return forked.told("ranks_of_megatron.py")


@pytest.mark.parametrize("parallel", ["sequence parallel", "tensor parallel"])
@pytest.mark.parametrize("tied", ["tied", "untied"])
@pytest.mark.parametrize("adapter", NUMBERS)
def test_a_model_that_is_split_over_ranks(adapter, tied, parallel, ranks):
    assert len(ranks) == 2
    for rank in ranks:
        found = rank[f"{adapter}, {tied}, {parallel}"]
        refused = adapter in WITH_A_SPLIT_SEQUENCE and parallel == "tensor parallel"
        assert found.keys() == {"not refused"} if refused else len(found) == NUMBERS[adapter]
        assert all(off <= BOUNDS.get(name, 0) for name, off in found.items()), found


def test_megatrons_own_test_of_its_cross_entropy(ranks):
    for rank in ranks:
        found = rank["of_its_own_test"]
        assert found["logprobs"] == 0 and found["beside Megatron's loss"] <= BOUNDS["beside Megatron's loss"]
