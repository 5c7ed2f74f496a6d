"""The tests of scores, logits, special rows, supports and losses, on the torch backend."""

import pytest

torch = pytest.importorskip("torch")
import forced_torch  # noqa: E402
import test_cross_entropy  # noqa: E402
import test_score  # noqa: E402
import test_torch  # noqa: E402

for _module, _without in (
    (test_cross_entropy, {}),
    (
        test_score,
        {
            "test_every_output_by_every_way": "asks which kernel of the library it was",
            "test_narrow_logits_are_rounded_once_by_every_way": "takes fast arithmetic",
            "test_every_result_names_its_kernel_and_arithmetic": "asks which kernel of the library it was",
            "test_backward_takes_the_kernel_of_forward_whatever_the_environment_says_by_then": "takes fast arithmetic",
        },
    ),
    (
        test_torch,
        {
            "test_strides_are_followed": "a weight of any strides is taken",
            "test_opcheck_of_a_low_rank_addition": "the backend takes none",
            "test_forks_of_a_data_loader_score": "runs in another process",
        },
    ),
):
    globals().update(forced_torch.tests_of(_module, _without))
everything_goes_to_the_torch_backend = forced_torch.everything_goes_to_the_torch_backend
