"""Puts the head into a model of Transformers, and takes it out again."""

from typing import Any

from torch import nn

from isologit import _hf_body
from isologit.nn import LMHead

# What each key does, and in which families (model_type begins with). Elsewhere its meaning is not known.
_KEYS: tuple[tuple[str, str, str], ...] = (
    ("final_logit_softcapping", "", "softcap"),
    ("logits_soft_cap", "recurrent_gemma", "softcap"),
    ("output_logit_soft_cap", "xlstm", "softcap"),
    ("logit_scale", "cohere", "scale"),
    ("logits_scaling", "granite", "divide"),
    ("logits_scaling", "hyperclovax", "scale"),
    ("lm_head_multiplier", "falcon_h1", "scale"),
    ("output_multiplier", "no family", "scale"),
)


def transforms(config: Any) -> dict[str, float]:
    """softcap, scale and divide as a Transformers configuration gives them; one that is not known is an error."""
    config = config.get_text_config()
    found: dict[str, float] = {}
    for key in dict.fromkeys(key for key, _, _ in _KEYS):
        value = getattr(config, key, None)
        if value is None:
            continue
        what = next(
            (what for name, family, what in _KEYS if name == key and config.model_type.startswith(family)), None
        )
        if what is not None:
            found[what] = float(value)
        elif value != 1:
            raise NotImplementedError(
                f"{key} is {value} in a configuration of model_type {config.model_type!r}; what it "
                "does to the logits of this family is not known to isologit"
            )
    return {what: value for what, value in found.items() if what == "softcap" or value != 1.0}


def install(model: nn.Module, *, scope: str = "head") -> LMHead:
    """Replaces the model's output head by an LMHead on the same parameters, and returns it.

    scope: "head", or "model" for all that comes before the head too (CONTRACT.md 10), in the families that are known:
    hidden states are then the same bits in any batch, chunk and cache, with any padding. That has no gradients yet.

    `model(...)` then gives logits that are exact up to what the model does to them after its head, and
    `head.logprobs(hidden, token_ids)` the logprobs with the transforms of the model's configuration. Token ids are not
    shifted: score token t + 1 from the hidden state at t.
    """
    if scope not in ("head", "model"):
        raise ValueError(f"scope is {scope!r}; expected 'head' or 'model'")
    if scope == "model":
        _hf_body.install(model)
        try:
            return install(model)
        except BaseException:
            _hf_body.uninstall(model)
            raise
    former = model.get_output_embeddings()
    if isinstance(former, LMHead):
        raise ValueError(
            "the model's head is an isologit.nn.LMHead already; isologit.hf.uninstall restores the former one"
        )
    if not isinstance(former, nn.Linear):
        raise NotImplementedError(f"the model's head is {type(former).__name__}; expected torch.nn.Linear")
    config = model.config.get_text_config()
    head = LMHead(
        former.weight, former.bias, vocab_size=min(config.vocab_size, former.weight.shape[0]), **transforms(config)
    )
    head.train(former.training)
    object.__setattr__(head, "_former", former)  # not a submodule: the state_dict keeps its keys
    model.set_output_embeddings(head)
    return head


def uninstall(model: nn.Module) -> None:
    """Restores the head that `install` replaced, with the parameters that the model has now."""
    head = model.get_output_embeddings()
    former = getattr(head, "_former", None)
    if former is None:
        raise ValueError(
            f"the model's head is {type(head).__name__}; expected one that isologit.hf.install has put there"
        )
    former.weight, former.bias = head.weight, head.bias
    former.train(head.training)
    model.set_output_embeddings(former)
    if _hf_body.installed(model):
        _hf_body.uninstall(model)
