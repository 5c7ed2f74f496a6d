"""The tests of the forward pass, of models too, on the torch backend."""

import pytest

torch = pytest.importorskip("torch")
import forced_torch  # noqa: E402
import test_forward  # noqa: E402
import test_forward_gradients  # noqa: E402
import test_forward_models  # noqa: E402
import test_forward_training  # noqa: E402

for _module, _without in (
    (test_forward, {}),
    (test_forward_gradients, {}),
    (test_forward_models, {}),
    (test_forward_training, {}),
):
    globals().update(forced_torch.tests_of(_module, _without))
everything_goes_to_the_torch_backend = forced_torch.everything_goes_to_the_torch_backend
