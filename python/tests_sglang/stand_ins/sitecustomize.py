"""In PYTHONPATH of SGLang's processes: modules that it imports, and that no test comes to call.

sgl_kernel and cutlass are made for GPUs; torchvision and torchaudio come without the CPU's torch; IPython is for
notebooks. Everything else of SGLang is its own.
"""

import importlib.abc
import importlib.machinery
import sys
import types

import transformers.utils

NAMES = ("sgl_kernel", "cutlass", "torchvision", "torchaudio", "IPython")


class Anything(type):
    """A class that has every attribute."""

    def __getattr__(cls, name: str) -> "Anything":
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})


class StandIn(types.ModuleType):
    __path__ = []

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: object = None, target: object = None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in NAMES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


# Transformers remembers, from here on, that they are not there.
transformers.utils.is_torchvision_available()
transformers.utils.is_torchaudio_available()
sys.meta_path.insert(0, Finder())
