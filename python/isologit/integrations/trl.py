"""TRL: the fused head of its trainers (SFT, DPO, KTO, GRPO, RLOO), whose results then are isologit's.

TRL's own forward of a model with a fused head stays in charge of the body, the labels, the auxiliary loss and what FSDP
shards; the function that it calls for the numbers is replaced, for the models that `install` was given alone.
"""

import contextvars
import functools
import types
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isologit import hf, losses, score
from isologit.integrations._adapter import check
from isologit.integrations._table import PACKAGES

_OUTPUTS = {"entropy": "entropy", "log_sum_sq_probs": "sum_p2", "mean_logits": "mean_logits", "is_top1": "argmax"}
_HOW = "make the trainer first, or call trl.trainer.utils.add_fused_lm_head(model)"


class _Head(NamedTuple):
    """What a model's configuration says of its head."""

    vocab_size: int
    transforms: dict[str, Any]
    gradients: str

    def agrees(self, softcap: float | None, scale: float) -> bool:
        """With what TRL has found in the same configuration."""
        ours = self.transforms.get("scale", 1 / self.transforms.get("divide", 1.0))
        return (softcap, scale) == (self.transforms.get("softcap"), ours)


class _Call:
    """A forward with fused_lm_head=True; `logprobs` once it has come to the head."""

    def __init__(self, head: _Head) -> None:
        self.head = head
        self.logprobs: Tensor | None = None


_call: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("isologit_trl_call", default=None)
_originals: dict[str, Any] = {}  # of trl.trainer.utils, while replaced


class _LogProbs:
    """In the place of trl.trainer.utils._ChunkedLogProbFunction."""

    @staticmethod
    def apply(*args: Any) -> tuple[Tensor | None, ...]:
        call = _call.get()
        if call is None:
            return _originals["_ChunkedLogProbFunction"].apply(*args)
        return _fields(call, *args)


def _fields(
    call: _Call,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    chunk_size: int,
    final_logit_softcapping: float | None = None,
    logit_scale: float = 1.0,
    outputs: tuple[str, ...] = tuple(_OUTPUTS),
) -> tuple[Tensor | None, ...]:
    """log_probs, entropy, log_sum_sq_probs, mean_logits and is_top1 [N]; None where not in outputs."""
    head = call.head
    if not head.agrees(final_logit_softcapping, logit_scale):
        raise NotImplementedError(
            f"TRL finds a softcap of {final_logit_softcapping} and a scale of {logit_scale} in the model's "
            f"configuration, and isologit {head.transforms}: uninstall isologit for this model"
        )
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    scores = score(
        hidden.to(dtype),
        weight.to(dtype),
        targets,
        bias=None if bias is None else bias.to(dtype),
        temperature=temperature,
        vocab_size=min(head.vocab_size, weight.shape[0]),
        outputs=("logprobs", *(ours for theirs, ours in _OUTPUTS.items() if theirs in outputs)),
        gradients=head.gradients,
        **head.transforms,
    )
    call.logprobs = scores.logprobs
    return (
        scores.logprobs,
        scores.entropy,
        None if scores.sum_p2 is None else scores.sum_p2.double().log().float(),
        None if scores.mean_logits is None else scores.mean_logits.detach(),
        None if scores.argmax is None else scores.argmax == targets,
    )


def _only_valid_positions(device: torch.device) -> bool:
    """In the place of trl.trainer.utils._use_triton, which decides whether masked positions reach the function."""
    return _call.get() is not None or _originals["_use_triton"](device)


def _replace_names() -> None:
    if _originals:
        return
    check(PACKAGES["trl"])
    from trl.trainer import utils

    for name, ours in (("_ChunkedLogProbFunction", _LogProbs), ("_use_triton", _only_valid_positions)):
        _originals[name] = getattr(utils, name)
        setattr(utils, name, ours)


def _restore_names() -> None:
    from trl.trainer import utils

    for name, former in _originals.items():
        setattr(utils, name, former)
    _originals.clear()


def _models(trainer_or_model: Any) -> list[nn.Module]:
    """The models, without their wrappers, whose forward TRL has replaced."""
    if isinstance(trainer_or_model, nn.Module):
        models = [trainer_or_model]
    else:
        models = [trainer_or_model.model, getattr(trainer_or_model, "ref_model", None)]
        unwrap = functools.partial(trainer_or_model.accelerator.unwrap_model, keep_fp32_wrapper=True)
        models = [unwrap(model) for model in models if model is not None]
    return [model.get_base_model() if hasattr(model, "get_base_model") else model for model in models]


def _has_fused_head(model: nn.Module) -> bool:
    forward = getattr(model, "_original_forward", model.forward)  # the name that accelerate keeps what it wraps by
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    return code is not None and code.co_name == "_fused_forward"


def _head_of(model: nn.Module, gradients: str) -> _Head:
    """TRL scales logits before it caps them, whatever the model."""
    transforms = {**hf.transforms(model.config), "transform_order": "scale_first"}
    return _Head(model.config.get_text_config().vocab_size, transforms, gradients)


def install(trainer_or_model: Any, *, gradients: str = "fast") -> None:
    """The fused head of a trainer's model, and of its reference model, computes with isologit from now on.

    gradients: "fast" or "exact", as of isologit.score.
    """
    models = [model for model in _models(trainer_or_model) if getattr(model, "_isologit_trl", None) is None]
    for model in models:
        if not _has_fused_head(model):
            raise ValueError(
                f"{type(model).__name__} has no fused head of TRL: make the trainer first, or call "
                "trl.trainer.utils.add_fused_lm_head(model)"
            )
    heads = [_head_of(model, gradients) for model in models]
    _replace_names()
    for model, head in zip(models, heads, strict=True):
        _wrap(model, head)


def uninstall(trainer_or_model: Any) -> None:
    """TRL's own function computes again."""
    for model in _models(trainer_or_model):
        installed = getattr(model, "_isologit_trl", None)
        if installed is None:
            raise ValueError(f"{type(model).__name__} has no head of isologit: expected one that trl.install was given")
        model._isologit_trl = None
        if model.forward is installed.forward:  # else accelerate has wrapped it, and it hands on
            model.forward = installed.former
        _in_force.discard(installed)
    if not _in_force:
        _restore_names()


def in_force() -> bool:
    return bool(_in_force)


class _Installed(NamedTuple):
    """A model's forward before and after."""

    former: Any
    forward: Any


_in_force: set[_Installed] = set()
calls = 0  # forwards with fused_lm_head=True that isologit has answered


def _wrap(model: nn.Module, head: _Head) -> None:
    former = model.forward

    @functools.wraps(former)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("fused_lm_head") or self._isologit_trl is None:
            return former(*args, **kwargs)
        call = _Call(head)
        before = _call.set(call)
        try:
            output = former(*args, **kwargs)
        finally:
            _call.reset(before)
        return _with_exact_loss(self, call, output, kwargs.get("num_items_in_batch"))

    installed = _Installed(former, types.MethodType(forward, model))
    model._isologit_trl, model.forward = installed, installed.forward
    _in_force.add(installed)


def _with_exact_loss(model: nn.Module, call: _Call, output: Any, num_items_in_batch: Any) -> Any:
    """The output with its loss rounded once, before the load-balancing loss is added as TRL adds it."""
    global calls
    if call.logprobs is None:
        raise RuntimeError("TRL's fused head did not call the function that isologit replaces: uninstall isologit")
    calls += 1
    count = max(call.logprobs.numel(), 1) if num_items_in_batch is None else float(num_items_in_batch)
    loss = losses.mean(-call.logprobs, count)
    if output.aux_loss is not None:
        weight = getattr(model.config.get_text_config(), "router_aux_loss_coef", 0.0)
        loss = loss + weight * output.aux_loss
    output.loss = loss
    return output
