"""The tests of other files with every operator made by the torch backend, on the CPU."""

import pytest

from isologit import torch_backend


def tests_of(module, without: dict[str, str]) -> dict:
    """The tests and fixtures of a module, but for those named, each with its reason. Tests get the module's name as
    well, since those of several may be called alike."""
    assert all(hasattr(module, name) for name in without), "a test that is left out is there no more"
    kept = {name: value for name, value in vars(module).items() if name not in without and not name.startswith("__")}
    return {f"{name}__{module.__name__}" if name.startswith("test_") else name: x for name, x in kept.items()}


@pytest.fixture(autouse=True)
def everything_goes_to_the_torch_backend(monkeypatch):
    monkeypatch.setattr(torch_backend, "takes", lambda arguments: True)
