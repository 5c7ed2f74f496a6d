"""The tests of gradients, of given logits and of samples, on the torch backend."""

import pytest

torch = pytest.importorskip("torch")
import forced_torch  # noqa: E402
import test_backward  # noqa: E402
import test_changed_operands  # noqa: E402
import test_gradients  # noqa: E402
import test_of_logits  # noqa: E402
import test_sample  # noqa: E402
import test_sample_of_logits  # noqa: E402

for _module, _without in (
    (test_gradients, {"test_fast_logits_are_differentiated_at_the_logits_of_forward": "takes fast arithmetic"}),
    (
        test_backward,
        {
            "test_ctrl_c_stops_backward_between_tiles": "runs in another process",
            "test_compiles_forward_and_backward_without_a_break": "the graph does not know what makes an operator",
        },
    ),
    (
        test_changed_operands,
        {
            "test_an_interrupted_backward_marks_the_buffer": "counts on a kernel that takes minutes",
            "test_a_mask_for_all_rows_is_read_where_it_lies": "traces every allocation",
        },
    ),
    (test_of_logits, {"test_kernels_and_threads": "asks for the kernels of the library"}),
    (test_sample, {}),
    (test_sample_of_logits, {"test_report_and_compile": "asks which kernel of the library it was"}),
):
    globals().update(forced_torch.tests_of(_module, _without))
everything_goes_to_the_torch_backend = forced_torch.everything_goes_to_the_torch_backend
