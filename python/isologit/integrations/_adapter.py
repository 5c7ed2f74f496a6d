"""Puts functions in the place of those of another package, and takes them out again."""

import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Callable
from typing import Any

from isologit.integrations._table import PACKAGES, Package


def version(package: Package) -> str | None:
    """What is installed; None if nothing is, or if it does not say."""
    try:
        return importlib.metadata.version(package.distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def parameters(function: Any) -> str:
    """Names and defaults, as "(hidden, temperature=1.0)". Of `SomeFunction.apply` of autograd, those of its forward."""
    owner = getattr(function, "__self__", None)
    if getattr(function, "__name__", "") == "apply" and hasattr(owner, "forward"):
        return parameters(owner.forward).replace("(ctx, ", "(", 1)
    shown = inspect.signature(function).parameters.values()
    return str(inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in shown]))


def find(where: str) -> tuple[Any, str, Any]:
    """What "module:Class.name" stands for: its owner, its name in it, and itself."""
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    return owner, name, getattr(owner, name)


def check(package: Package) -> dict[str, tuple[Any, str, Any]]:
    """The names of a package, found; an error if one of them has moved or takes other parameters."""
    seen, found = version(package), {}
    here = f"{package.distribution} {seen or '(version not known)'}"
    made_for = f"isologit's adapter was made for {package.tested}: install that version"
    for where, expected in package.names.items():
        try:
            found[where] = find(where)
        except ImportError as error:
            raise ImportError(f"{here}: {where} cannot be imported: {error}; {made_for}") from error
        except AttributeError as error:
            raise NotImplementedError(f"{here}: {where} has moved: {error}; {made_for}") from error
        got = parameters(found[where][2])
        if got != expected:
            raise NotImplementedError(f"{here}: {where} takes {got}; expected {expected}; {made_for}")
    return found


class Adapter:
    """Functions that stand in for the names of one package; `calls` counts how often they were called."""

    def __init__(self, key: str, **functions: Callable) -> None:
        """functions: by the last part of the name that each takes the place of, with "_" for "."."""
        self.key = key
        self.calls = 0
        self._functions = functions
        self._replaced: list[tuple[Any, str, Any, Any]] = []

    def in_force(self) -> bool:
        return bool(self._replaced)

    def install(self) -> None:
        """Replaces the names where they are defined and in every module of the package that has imported them."""
        if self._replaced:
            return
        for where, (owner, name, former) in check(PACKAGES[self.key]).items():
            ours = self._functions.get(where.partition(":")[2].replace(".", "_"))
            if ours is None:
                continue
            ours = self._counted(ours)
            root = where.partition(".")[0]
            places = [(owner, name)] if inspect.isclass(owner) else _places(root, former)
            for place, attribute in places:
                setattr(place, attribute, ours)
                self._replaced.append((place, attribute, former, ours))

    def uninstall(self) -> None:
        """Restores them; modules that have imported ours meanwhile too."""
        for place, attribute, former, ours in self._replaced:
            setattr(place, attribute, former)
            if not inspect.isclass(place):
                for later, name in _places(place.__name__.partition(".")[0], ours):
                    setattr(later, name, former)
        self._replaced = []

    def _counted(self, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return function(*args, **kwargs)

        call.__wrapped__ = function
        call.__name__, call.__doc__ = function.__name__, function.__doc__
        return call


def _places(root: str, value: Any) -> list[tuple[Any, str]]:
    """Where the modules of a package that are imported hold this very object."""
    return [
        (module, name)
        for key, module in list(sys.modules.items())
        if module is not None and (key == root or key.startswith(f"{root}."))
        for name, held in list(vars(module).items())
        if held is value
    ]
