"""The tests of outputs, special rows and supports, on the torch backend: CPU tensors, forced."""

import pytest

torch = pytest.importorskip("torch")

from test_score import *  # noqa: E402, F403
from test_torch import *  # noqa: E402, F403
from isologit import torch_backend
@pytest.fixture(autouse=True)
def forced(monkeypatch):
    monkeypatch.setattr(torch_backend, "takes", lambda arguments: True)
