"""What is known of the heads of the model classes of Transformers: families.json, which the command goes by as well."""

import functools
import json
from importlib import resources
from typing import Any

Family = dict[str, Any]


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads((resources.files("isologit") / "families.json").read_text(encoding="utf-8"))


@functools.cache
def _step_keys() -> frozenset[str]:
    keys = {step["key"].split(".")[-1] for family in _table()["families"] for step in family.get("transforms", ())}
    return frozenset(keys | set(_table()["foreign_keys"]))


def _at(config: Any, path: str) -> Any:
    """The object at a path of a configuration, or None."""
    for name in path.split(".") if path else ():
        config = getattr(config, name, None)
    return config


def _fits(family: Family, config: Any) -> bool:
    if family["model_type"] != config.model_type:
        return False
    return "text" not in family or _at(config, f"{family['text']}.model_type") in family["text_types"]


def families_of(config: Any, architecture: str | None = None) -> list[Family]:
    """Those of the configuration's model_type, of one class if it is named."""
    return [
        family
        for family in _table()["families"]
        if _fits(family, config) and architecture in (None, family["architecture"])
    ]


def steps_of(family: Family, config: Any) -> list[tuple[str, float]]:
    """What the class does to its logits: ("softcap" | "scale" | "divide", number), in its order."""
    steps = []
    for step in family.get("transforms", ()):
        *outer, key = step["key"].split(".")
        value = getattr(_at(config, ".".join(outer)), key, step["default"])
        if value is not None and (step["does"] == "softcap" or value != 1):
            steps.append((step["does"], float(value)))
    return steps


def foreign_step(family: Family | None, config: Any) -> tuple[str, Any] | None:
    """A key that other classes take for a step, with a value that does something, and that; None if there is none."""
    known = {step["key"] for step in family.get("transforms", ())} if family else set()
    known |= {*family.get("ignored", ()), family["vocab"]} if family else set()
    places = {"": config}
    if family is None:
        places["text_config."] = config.get_text_config()
    elif "text" in family:
        places[f"{family['text']}."] = _at(config, family["text"])
    for prefix, place in places.items():
        for key in sorted(_step_keys()):
            value = getattr(place, key, None)
            if value is not None and value is not False and value != 1 and prefix + key not in known:
                return prefix + key, value
    return None
