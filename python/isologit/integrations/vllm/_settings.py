"""The option, as vLLM's additional_config holds it."""

from dataclasses import dataclass
from typing import Any

OPTION = "isologit"
_CHOICES = {
    "arithmetic": ("exact", "fast"),
    "logprobs": ("exact", "engine"),
    "draws": ("engine", "contract"),
    "scope": ("head", "model"),
}


@dataclass(frozen=True)
class Settings:
    """arithmetic: that of the logits. logprobs: "exact", of the engine's final logits, rounded once; "engine", vLLM's
    own. draws: "contract", those of CONTRACT.md 4; "engine", vLLM's own. threads 0: as many as there are processors
    that the engine's threads are bound to."""

    arithmetic: str = "exact"
    logprobs: str = "exact"
    draws: str = "engine"
    scope: str = "head"
    threads: int = 0

    def __str__(self) -> str:
        threads = self.threads or "automatic"
        return (
            f"scope {self.scope}, arithmetic {self.arithmetic}, logprobs {self.logprobs}, draws {self.draws}, threads "
            f"{threads}"
        )


def read(additional_config: Any) -> Settings | None:
    """None where the option is absent. {"fp32_lm_head": true}, prime-rl's switch, asks for the defaults."""
    if not isinstance(additional_config, dict):
        return None
    if OPTION not in additional_config:
        return Settings() if additional_config.get("fp32_lm_head") is True else None
    option = additional_config[OPTION]
    if not isinstance(option, dict):
        raise ValueError(
            f'additional_config["isologit"] is {option!r}; expected an object such as {{"arithmetic": "exact"}}, or '
            "{} for the defaults; leave it out to switch isologit off"
        )
    known = [*_CHOICES, "threads"]
    for key, value in option.items():
        if key not in known:
            raise ValueError(f'additional_config["isologit"] has the key {key!r}; expected {", ".join(known)}')
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ValueError(
                f'additional_config["isologit"]: {key} is {value!r}; expected {" or ".join(map(repr, _CHOICES[key]))}'
            )
        if key == "threads" and (type(value) is not int or value < 0):
            raise ValueError(
                f'additional_config["isologit"]: threads is {value!r}; expected a whole number, 0 for automatic'
            )
    return Settings(**option)
