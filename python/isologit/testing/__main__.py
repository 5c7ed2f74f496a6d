"""isologit verify --head pkg.module:fn"""

import argparse
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from isologit._outputs import check_destination, say, told, written
from isologit.testing._checks import CHECKS
from isologit.testing._verify import GIVES, verify_head


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="isologit verify",
        description="Tries a head, fn(hidden, weight) or fn(hidden, weight, token_ids), and tells which properties it "
        "has, bit for bit. Ends with 0 if all of them, with 1 if not. What they are: docs/testing_heads.md.",
    )
    parser.add_argument("--head", metavar="MODULE:FN", required=True, help="a function that gives logits or logprobs")
    parser.add_argument("--gives", choices=GIVES, help="what, if it cannot be seen")
    parser.add_argument("--dtype", default="bfloat16", help="of hidden and weight: bfloat16, float16, float32")
    parser.add_argument("--device", default="cpu", help="of tensors")
    kinds = ("torch", "numpy")
    parser.add_argument("--arrays", choices=kinds, help="what it takes (default: torch where it is imported)")
    parser.add_argument("--shape", default="24,1031,512", metavar="N,V,H")
    parser.add_argument("--properties", metavar="NAMES", help=f"these alone, of: {', '.join(CHECKS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--junit", metavar="FILE", help="write the verdict as a JUnit report")
    given = parser.parse_args(arguments)
    fn = _function(parser, given.head)
    try:
        source = getattr(inspect.getmodule(fn), "__file__", None)
        junit = None if given.junit is None else check_destination("--junit", given.junit, [source] if source else [])
        verdict = verify_head(
            fn,
            gives=given.gives,
            dtype=given.dtype,
            device=given.device,
            arrays=given.arrays,
            shape=_shape(parser, given.shape),
            properties=None if given.properties is None else given.properties.split(","),
        )
        with written(junit, verdict.junit() + "\n"):
            say(verdict.json() if given.json else verdict.table())
    except (OSError, ValueError) as error:
        sys.exit(f"isologit: {told(error)}")
    sys.exit(0 if verdict else 1)


def _function(parser: argparse.ArgumentParser, name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        parser.error(f"--head: {name!r}; expected MODULE:FN, such as heads:my_head")
    sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        parser.error(f"--head: {name!r}: {error}; expected a function of a module that Python finds here")
    return found


def _shape(parser: argparse.ArgumentParser, text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        parser.error(f"--shape: {text!r}; expected N,V,H, such as 24,1031,512")
    return tuple(map(int, parts))


if __name__ == "__main__":
    main()
