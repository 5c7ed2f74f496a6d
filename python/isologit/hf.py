"""Puts the head into a model of Transformers, and takes it out again."""

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from isologit import _families, _hf_body, _labels
from isologit._logits import logits
from isologit.nn import LMHead


def transforms(config: Any) -> dict[str, Any]:
    """softcap, scale, divide and transform_order as a Transformers configuration gives them, by what is known of its
    model_type; one that is not known is an error."""
    names = getattr(config, "architectures", None) or [None]
    families = _families.families_of(config, names[0]) or _families.families_of(config)
    return _transforms(families, config)


def _transforms(families: list[_families.Family], config: Any) -> dict[str, Any]:
    for family in families or [None]:
        if foreign := _families.foreign_step(family, config):
            key, value = foreign
            raise NotImplementedError(
                f"{key} is {value} in a configuration of model_type {config.model_type!r}; what it does to the logits "
                "of this family is not known to isologit"
            )
    steps = [_families.steps_of(family, config) for family in families]
    if any(other != steps[0] for other in steps):
        classes = ", ".join(sorted({family["architecture"] for family in families}))
        raise NotImplementedError(
            f"the classes of model_type {config.model_type!r} ({classes}) do different things to their logits; set "
            "architectures in the configuration"
        )
    found: dict[str, Any] = dict(steps[0]) if steps else {}
    if len(found) == 2 and steps[0][1][0] == "softcap":
        found["transform_order"] = "scale_first"
    return found


def install(model: nn.Module, *, scope: str = "head") -> LMHead:
    """Replaces the model's output head by an LMHead on the same parameters, and returns it.

    scope: "head", or "model" for all that comes before the head too (CONTRACT.md 10), in the families that are known:
    hidden states are then the same bits in any batch, chunk and cache, with any padding, and gradients of inputs too.

    `model(...)` then gives logits that are exact up to what the model does to them after its head, and
    `head.logprobs(hidden, token_ids)` the logprobs with the transforms of the model's configuration. Token ids are not
    shifted: score token t + 1 from the hidden state at t.

    A few random rows are first put through the former head, and through the model's last steps: NotImplementedError if
    what comes of them differs by more than rounding allows from what the LMHead gives, and the model is as it was.

    `model(..., labels=...)` makes its loss of the hidden states, as linear_cross_entropy does, and no logits: those
    that it returns are made when they are looked at. So it is where the loss is Transformers' usual one for causal
    models, under torch.compile and inference_mode too; docs/python.md says where logits are made at once.

    A head that PEFT has wrapped with LoRA stays in its place and makes its logits by the LMHead, of the real number
    base + scale b a; it trains, and an adapter that is disabled, merged or chosen later is followed.
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
    if hasattr(former, "base_layer") and hasattr(former, "lora_A"):
        return _install_adapted(model, former)
    _check_replaceable(former)
    head = _head_for(model, former)
    with _as_it_is(model):
        _prove_head(former, head)
        model.set_output_embeddings(head)
        try:
            _prove_last_steps(model, head, head)
        except BaseException:
            model.set_output_embeddings(former)
            raise
    object.__setattr__(head, "_former", former)  # not a submodule: the state_dict keeps its keys
    model.resize_token_embeddings = types.MethodType(_resize_token_embeddings, model)
    _labels.begin(model, head)
    return head


def uninstall(model: nn.Module) -> None:
    """Restores the head that `install` replaced, with the parameters that the model has now."""
    head = model.get_output_embeddings()
    if isinstance(_head_of(head), _AdaptedHead):
        del head.forward
        _labels.end(model)
        return
    former = getattr(head, "_former", None)
    if former is None:
        raise ValueError(
            f"the model's head is {type(head).__name__}; expected one that isologit.hf.install has put there"
        )
    former.weight, former.bias = head.weight, head.bias
    former.train(head.training)
    model.set_output_embeddings(former)
    _labels.end(model)
    if _hf_body.installed(model):
        _hf_body.uninstall(model)
    vars(model).pop("resize_token_embeddings", None)


def _resize_token_embeddings(model: nn.Module, *arguments: Any, **named: Any) -> Any:
    """In the place of the model's own, which makes a new nn.Linear of the head that it finds."""
    head, with_body = model.get_output_embeddings(), _hf_body.installed(model)
    uninstall(model)
    try:
        return model.resize_token_embeddings(*arguments, **named)
    finally:
        former = model.get_output_embeddings()
        head.weight, head.bias = former.weight, former.bias
        head.vocab_size = _vocab_size(model, former)
        object.__setattr__(head, "_former", former)
        model.set_output_embeddings(head)
        model.resize_token_embeddings = types.MethodType(_resize_token_embeddings, model)
        _labels.begin(model, head)
        if with_body:
            _hf_body.install(model)


def lora_of(layer: nn.Module) -> tuple[Tensor, Tensor, float]:
    """What a layer that PEFT has wrapped with LoRA adds to its base_layer.weight: (a, b, scale), for `lora`.

    The layer's own parameters, so that their updates are seen. NotImplementedError if its active adapters do anything
    else: several of them, one that is merged or disabled, DoRA and other variants, biases, dropout in training.
    """
    if not all(hasattr(layer, name) for name in ("base_layer", "lora_A", "lora_B", "scaling", "active_adapters")):
        raise ValueError(f"the layer is {type(layer).__name__}; expected one that PEFT has wrapped with LoRA")
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    what = ""
    if layer.merged or layer.disable_adapters or len(names) != 1:
        state = "merged" if layer.merged else "disabled" if layer.disable_adapters else f"{names or 'not there'}"
        what = f"the active adapters are {state}; expected one, that is neither merged nor disabled"
    elif names[0] in getattr(layer, "lora_variant", {}) or getattr(layer, "fan_in_fan_out", False):
        what = f"{names[0]} is more than a product of two matrices (DoRA, or another variant of LoRA)"
    elif layer.lora_A[names[0]].bias is not None or layer.lora_B[names[0]].bias is not None:
        what = f"{names[0]} has a bias of its own"
    elif layer.training and getattr(layer.lora_dropout[names[0]], "p", 0) > 0:
        what = f"{names[0]} drops inputs while it trains; call eval() first"
    if what:
        raise NotImplementedError(f"lora: {what}")
    return layer.lora_A[names[0]].weight, layer.lora_B[names[0]].weight, float(layer.scaling[names[0]])


class _AdaptedHead(LMHead):
    """Of a layer that PEFT has wrapped and keeps: what the layer has at each call."""

    def __init__(self, layer: nn.Module, vocab_size: int, **transforms: Any) -> None:
        nn.Module.__init__(self)
        object.__setattr__(self, "_layer", layer)  # not a submodule of its own method
        options = {"softcap": None, "scale": None, "divide": None, "transform_order": "softcap_first", **transforms}
        for name, value in {**options, "vocab_size": vocab_size, "gradients": "fast"}.items():
            setattr(self, name, value)

    weight = property(lambda self: self._layer.base_layer.weight)
    bias = property(lambda self: self._layer.base_layer.bias)

    @property
    def lora(self) -> tuple[Tensor, Tensor, float] | None:
        if self._layer.disable_adapters and self._layer.merged:
            raise NotImplementedError("lora: the adapters are merged and disabled; call unmerge() first")
        if self._layer.disable_adapters or self._layer.merged:
            return None
        return lora_of(self._layer)


def _head_of(layer: Any) -> Any:
    return getattr(vars(layer).get("forward"), "__self__", None)


def _install_adapted(model: nn.Module, layer: nn.Module) -> LMHead:
    if isinstance(_head_of(layer), _AdaptedHead):
        raise ValueError(
            "the model's head has an isologit.nn.LMHead already; isologit.hf.uninstall restores the former one"
        )
    _check_replaceable(layer.base_layer)
    _check_hooks(layer)
    head = _head_for(model, layer.base_layer, lambda base, **options: _AdaptedHead(layer, **options))
    with _as_it_is(model):
        lora_of(layer)  # refuses what is more than a product
        _prove_head(layer, head)
        layer.forward = head.forward
        try:
            _prove_last_steps(model, head, layer)
        except BaseException:
            del layer.forward
            raise
    _labels.begin(model, head)
    return head


def _vocab_size(model: nn.Module, former: nn.Linear) -> int:
    return min(model.config.get_text_config(decoder=True).vocab_size, former.weight.shape[0])


def _plain_head(former: nn.Linear, **options: Any) -> LMHead:
    return LMHead(former.weight, former.bias, **options)


def _head_for(model: nn.Module, former: nn.Linear, make: Callable[..., LMHead] = _plain_head) -> LMHead:
    bias = getattr(model, "final_logits_bias", None)
    if isinstance(bias, Tensor) and bool(bias.any()):
        raise NotImplementedError(
            "the model adds final_logits_bias to its logits, which is not zero; add it to the head's own bias first"
        )
    config = model.config
    families = _families.families_of(config, type(model).__name__) or _families.families_of(config)
    head = make(former, vocab_size=_vocab_size(model, former), **_transforms(families, config))
    return head.train(former.training)


def _check_replaceable(former: Any) -> None:
    """Whether the head is nothing but a matrix and a bias."""
    name = type(former).__name__
    if isinstance(former, LMHead):
        raise ValueError(
            "the model's head is an isologit.nn.LMHead already; isologit.hf.uninstall restores the former one"
        )
    if hasattr(former, "base_layer") or hasattr(former, "modules_to_save"):
        raise NotImplementedError(
            f"the model's head is {name}, an adapter of PEFT around the head that is not LoRA; leave the head out of "
            "target_modules and modules_to_save, or merge it first (merge_and_unload, which rounds)"
        )
    if parametrize.is_parametrized(former):
        raise NotImplementedError(
            "the model's head is parametrized; torch.nn.utils.parametrize.remove_parametrizations makes it one matrix"
        )
    if not isinstance(former, nn.Linear):
        raise NotImplementedError(f"the model's head is {name}; expected torch.nn.Linear")
    if "weight" not in former._parameters:
        raise NotImplementedError(
            "the weight of the model's head is computed from other parameters, as by weight_norm; "
            "torch.nn.utils.remove_weight_norm makes it one matrix"
        )
    if type(former).forward is not nn.Linear.forward or "forward" in vars(former):
        raise NotImplementedError(
            f"the model's head is {name} with a forward of its own, which an LMHead would leave out; expected that of "
            "torch.nn.Linear (accelerate's is removed by accelerate.hooks.remove_hook_from_module)"
        )
    _check_hooks(former)
    if former.weight.is_meta:
        raise NotImplementedError("the model's head is on the meta device, without values; load them first")


def _check_hooks(former: nn.Module) -> None:
    if former._forward_hooks or former._forward_pre_hooks or former._backward_hooks or former._backward_pre_hooks:
        raise NotImplementedError(
            "the model's head has hooks, which would not see what the LMHead's logprobs are made of; remove them, and "
            "register them on the head that isologit.hf.install returns if its forward is enough"
        )


@contextlib.contextmanager
def _as_it_is(model: nn.Module) -> Iterator[None]:
    """Without gradients or dropout; random numbers and modes are afterwards what they were."""
    training = [module for module in model.modules() if module.training]
    try:
        with torch.no_grad(), torch.random.fork_rng(_cuda_devices(model)):
            for module in training:
                module.training = False
            yield
    finally:
        for module in training:
            module.training = True


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    return list({parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"})


def _random_rows(shape: Any, weight: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator).to(weight.device, weight.dtype)


def _refuse_if_off(ours: Tensor, theirs: Tensor, bound: Tensor, what: str) -> None:
    if ours.shape != theirs.shape:
        raise NotImplementedError(f"{what}: {list(theirs.shape)} logits, and isologit's are {list(ours.shape)}")
    off = (ours - theirs).abs()
    if not bool((off <= bound).all()):
        raise NotImplementedError(
            f"{what}, which are off by up to {off.max().item():.3g}; is there something that is not in its weight, "
            "bias and configuration? isologit.nn.LMHead(weight, bias, softcap=..., scale=...) makes a head by hand"
        )


def _prove_head(former: nn.Module, head: LMHead) -> None:
    weight = head.weight
    rows = _random_rows((4, weight.shape[1]), weight)
    ours, theirs = head(rows).double(), former(rows).double()[:, : head.vocab_size]
    terms = rows.double().abs() @ weight[: head.vocab_size].double().abs().mT
    # Theirs is a sum in f32, in some order, rounded to its type; of an adapter both of its products are.
    eps = torch.finfo(weight.dtype).eps
    bound = 4 * eps * ours.abs().amax() + 2.0**-18 * terms
    if head.lora is not None:
        a, b, scale = head.lora
        inner = rows.double().abs() @ a.double().abs().mT
        bound = bound + 8 * eps * abs(scale) * (inner @ b[: head.vocab_size].double().abs().mT)
    _refuse_if_off(ours, theirs, bound, "the former head gives other logits of random rows")


def _inputs(model: nn.Module) -> list[dict[str, Tensor]]:
    """Inputs that some kinds of models take, of two tokens."""
    weight = model.get_output_embeddings().weight
    ids = torch.ones((1, 2), dtype=torch.long, device=weight.device)
    width = getattr(model.config.get_text_config(decoder=True), "hidden_size", weight.shape[1])
    encoded = torch.zeros((1, 2, width), dtype=weight.dtype, device=weight.device)
    return [
        {"input_ids": ids},
        {"input_ids": ids, "decoder_input_ids": ids},
        {"encoder_outputs": (encoded,), "decoder_input_ids": ids},
    ]


def _prove_last_steps(model: nn.Module, head: LMHead, module: nn.Module) -> None:
    """Runs the model with random rows in the place of what its head, that module, is given."""
    seen: list[Tensor] = []

    def replace(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = _random_rows(arguments[0].shape, arguments[0])
        # Large enough for a softcap to bend what they become.
        rows = rows * (16 / head.weight[:64].float().norm(dim=-1).mean().clamp(min=2.0**-20)).to(rows.dtype)
        seen.append(rows)
        return (rows, *arguments[1:])

    reasons = []
    for inputs in _inputs(model):
        seen.clear()
        hook = module.register_forward_pre_hook(replace)
        try:
            theirs = model(**inputs).logits
            break
        except Exception as error:  # whatever a class says of inputs that are not its own
            reasons.append(f"{type(error).__name__}: {error}")
        finally:
            hook.remove()
    else:
        raise NotImplementedError(
            f"{type(model).__name__} cannot be run on tokens alone to see what it does to its logits ({reasons[0]}); "
            "isologit.nn.LMHead(weight, bias, softcap=..., scale=...) makes a head by hand"
        )
    if len(seen) != 1:
        raise NotImplementedError(f"{type(model).__name__} calls its head {len(seen)} times; expected once")
    own = {"bias": head.bias, "vocab_size": head.vocab_size, "lora": head.lora}
    own |= {"softcap": head.softcap, "scale": head.scale, "divide": head.divide}
    own["transform_order"] = head.transform_order
    ours = logits(seen[0], head.weight, dtype=torch.float32, **own).double()
    # The model's own steps are in f32, a few roundings of numbers not much larger than its logits.
    bound = 2.0**-20 * ours.abs().amax(-1, keepdim=True).clamp(min=head.softcap or 0.0)
    _refuse_if_off(ours, theirs.double(), bound, f"{type(model).__name__} makes other logits of what its head gives")
