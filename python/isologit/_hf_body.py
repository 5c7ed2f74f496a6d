"""The body of a Hugging Face model by CONTRACT.md 10: its linears, norms, gates, rotary embeddings and attention.

Modules keep their parameters and places and change their class to one whose forward is isologit.forward's; sums of a
residual are torch's own, which rounds the sum of two bf16 or f16 numbers once. An architecture is either known in every
module or refused, naming the module that is not.
"""

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isologit import _experts as experts
from isologit import forward
from isologit._torch import packing

_ATTENTION = "isologit"
_ORIGINAL = "_isologit_class"


class _Family(NamedTuple):
    prefix: str  # of the names of its classes
    one_plus_weight: bool = False


# By the model_type of the text's config.
_FAMILIES = {
    "gemma2": _Family("Gemma2", one_plus_weight=True),
    "gemma3_text": _Family("Gemma3", one_plus_weight=True),
    "gpt_oss": _Family("GptOss"),
    "llama": _Family("Llama"),
    "mistral": _Family("Mistral"),
    "olmo2": _Family("Olmo2"),
    "phi3": _Family("Phi3"),
    "qwen2": _Family("Qwen2"),
    "qwen3": _Family("Qwen3"),
    "qwen3_moe": _Family("Qwen3Moe"),
}
_GATES = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
# Modules that compute nothing, or what their parent computes in their place.
_NEUTRAL = ("ModuleList", "Identity", "SiLUActivation", "SiLU", "GELUTanh")
_OF_A_FAMILY = ("Attention", "DecoderLayer", "ForCausalLM", "MLP", "Model", "SparseMoeBlock", "TextModel")


def install(model: nn.Module) -> None:
    """Changes the modules of model in place; uninstall(model) changes them back. All but its output head.

    model: a causal language model of Transformers of a known family, whose modules are its own. Raises
    NotImplementedError where something is not known, and then has changed nothing.
    """
    if installed(model):
        raise ValueError("the model's body is isologit's already; isologit.hf.uninstall restores the former one")
    config = model.config.get_text_config()
    family = _FAMILIES.get(config.model_type)
    if family is None:
        raise NotImplementedError(
            f"model_type is {config.model_type!r}; the body of {', '.join(_FAMILIES)} is known: install the head "
            'alone, with scope="head"'
        )
    kind = _GATES.get(getattr(config, "hidden_activation", None) or config.hidden_act)
    if kind is None:
        raise NotImplementedError(f"hidden_act is {config.hidden_act!r}; expected one of {', '.join(_GATES)}")
    changes = {}
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if module is head:
            continue
        replacement = _replacement(name, module, family, config, kind)
        if replacement is not None:
            changes[module] = replacement
    _register_attention()
    for module, replacement in changes.items():
        setattr(module, _ORIGINAL, type(module))
        module.__class__ = replacement
    turn_by_angles(sys.modules[type(model).__module__])
    model._isologit_attention = config._attn_implementation
    model.set_attn_implementation(_ATTENTION)


def installed(model: nn.Module) -> bool:
    return hasattr(model, "_isologit_attention")


def uninstall(model: nn.Module) -> None:
    """The model as it was before install."""
    for module in model.modules():
        if hasattr(module, _ORIGINAL):
            module.__class__ = getattr(module, _ORIGINAL)
            delattr(module, _ORIGINAL)
    model.set_attn_implementation(model._isologit_attention)
    del model._isologit_attention


def _replacement(name: str, module: nn.Module, family: _Family, config: Any, kind: str) -> type | None:
    """The class that the module gets, or none for one that stays."""
    cls = type(module)
    if "forward" in vars(module):
        raise NotImplementedError(
            f"{name or 'the model'}: its forward was replaced by another; expected {cls.__name__}'s"
        )
    own = cls.__module__.startswith("transformers.models.") and cls.__name__.startswith(family.prefix)
    part = cls.__name__.removeprefix(family.prefix) if own else ""
    if cls is nn.Linear:
        return _subclass(cls, _linear)
    if cls is nn.Embedding:
        return _subclass(cls, _embedding)
    if part == "TextScaledWordEmbedding":
        return _subclass(cls, lambda self, ids: _embedding(self, ids) * self.embed_scale.to(self.weight.dtype))
    if part == "RMSNorm":
        return _subclass(cls, _norm_of(family.one_plus_weight))
    if part == "MLP" and not hasattr(module, "experts"):
        return _subclass(cls, _fused_mlp_of(kind) if hasattr(module, "gate_up_proj") else _mlp_of(kind))
    if part == "TopKRouter":
        return _subclass(cls, _router)
    if part == "Experts":
        return _subclass(cls, _gpt_oss_experts if hasattr(module, "gate_up_proj_bias") else _experts_of(kind))
    if part == "RotaryEmbedding":
        return _subclass(cls, angles_of(config))
    if part in _OF_A_FAMILY or cls.__name__ in _NEUTRAL or (isinstance(module, nn.Dropout) and cls is nn.Dropout):
        return None
    raise NotImplementedError(
        f"{name}: {cls.__module__}.{cls.__name__} is not known as a part of {config.model_type!r}: install the head "
        'alone, with scope="head"'
    )


def _subclass(cls: type, function: Callable) -> type:
    return type(cls.__name__, (cls,), {"forward": function, "__module__": cls.__module__})


def _linear(self: nn.Linear, x: Tensor) -> Tensor:
    return forward.linear(x, self.weight, self.bias)


def _embedding(self: nn.Embedding, ids: Tensor) -> Tensor:
    return forward.embedding(ids, self.weight, padding_id=self.padding_idx)


def _norm_of(one_plus_weight: bool) -> Callable:
    def norm(self: Any, x: Tensor) -> Tensor:
        epsilon = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
        return forward.rms_norm(x, self.weight, epsilon, one_plus_weight=one_plus_weight)

    return norm


def _refuse_strangers(parent: nn.Module) -> None:
    """Adapters that are put in after install take the place of a part, whose result they add theirs to."""
    for name, part in parent.named_children():
        if not hasattr(part, _ORIGINAL) and type(part).__name__ not in _NEUTRAL and type(part) is not nn.Dropout:
            raise NotImplementedError(
                f"{name} of a {type(parent).__name__} is a {type(part).__module__}.{type(part).__name__} since isologit"
                " was installed; expected what was there: merge an adapter into the weight first, then install"
            )


def _mlp_of(kind: str) -> Callable:
    def mlp(self: Any, x: Tensor) -> Tensor:
        _refuse_strangers(self)
        return self.down_proj(forward.gate(self.gate_proj(x), self.up_proj(x), kind=kind))

    return mlp


def _fused_mlp_of(kind: str) -> Callable:
    def mlp(self: Any, x: Tensor) -> Tensor:
        _refuse_strangers(self)
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(forward.gate(gate, up, kind=kind))

    return mlp


def _router(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = forward.linear(x.reshape(-1, x.shape[-1]).float(), self.weight, getattr(self, "bias", None))
    return logits, *forward.router(logits, self.top_k, normalized=getattr(self, "norm_topk_prob", True))


def _experts_of(kind: str) -> Callable:
    def of_tokens(self: Any, x: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        made = experts.outputs(x, top_k_index, experts.gated(kind), self.gate_up_proj, self.down_proj)
        return forward.combine(made, top_k_weights)

    return of_tokens


def _gpt_oss_experts(self: Any, x: Tensor, router_indices: Tensor, routing_weights: Tensor) -> Tensor:
    gate_up, down = (weight.transpose(1, 2) for weight in (self.gate_up_proj, self.down_proj))
    expert = experts.clamped(self.alpha, self.limit)
    made = experts.outputs(x, router_indices, expert, gate_up, self.gate_up_proj_bias, down, self.down_proj_bias)
    return forward.combine(made, routing_weights)


class _Angles(NamedTuple):
    """What takes the place of cos, and of sin, between the rotary module and the attention."""

    positions: Tensor  # [batch, tokens]
    frequencies: Tensor
    factor: float
    running: Mapping[str, Any] | None  # threads and processors of the turns by them


def _frequencies(parameters: dict[str, Any], config: Any) -> tuple[Tensor, float]:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dim = int(head_dim * parameters.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", 1.0)))
    if parameters.get("factor", 0) is None:
        parameters = parameters | {
            "factor": config.max_position_embeddings / parameters["original_max_position_embeddings"]
        }
    return forward.rotary_frequencies(parameters["rope_theta"], dim, parameters), forward.rotary_factor(parameters)


def angles_of(config: Any, running: Mapping[str, Any] | None = None) -> Callable:
    """The forward of a rotary module, whose results the attention gives to apply_rotary_pos_emb."""
    parameters = config.rope_parameters
    if "rope_theta" in parameters:
        frequencies = _frequencies(parameters, config)
        return lambda self, x, position_ids: (_Angles(position_ids, *frequencies, running),) * 2
    by_layer = {kind: _frequencies(of_kind, config) for kind, of_kind in parameters.items() if of_kind is not None}
    return lambda self, x, position_ids, layer_type: (_Angles(position_ids, *by_layer[layer_type], running),) * 2


def turn_by_angles(modeling: ModuleType) -> None:
    """Heads are turned by ours in the family's code, where the angles are ours."""
    if not hasattr(modeling.apply_rotary_pos_emb, "isologit_stock"):
        modeling.apply_rotary_pos_emb = _rotary_of(modeling.apply_rotary_pos_emb)


def _rotary_of(stock: Callable) -> Callable:
    """Heads [batch, heads, tokens, dim] by ours where the angles are ours, else by the stock function."""

    def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Any, sin: Any, **options: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(cos, _Angles):
            return stock(q, k, cos, sin, **options)
        positions = cos.positions.expand(q.shape[0], q.shape[2])
        heads = (x.transpose(1, 2) for x in (q, k))
        options = {"factor": cos.factor, **(cos.running or {})}
        turned = (forward.rotary(x, positions, cos.frequencies, **options) for x in heads)
        return tuple(x.transpose(1, 2) for x in turned)

    apply_rotary_pos_emb.isologit_stock = stock
    return apply_rotary_pos_emb


def _register_attention() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_ATTENTION, _attention)
    AttentionMaskInterface.register(_ATTENTION, _mask)


def _mask(
    *,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> Tensor | None:
    """Which tokens are padding is all that a mask has to tell; causality and windows are arguments."""
    if int(q_offset) + q_length != int(kv_offset) + kv_length:
        raise NotImplementedError(
            f"the last query is token {int(q_offset) + q_length - 1}, the last key {int(kv_offset) + kv_length - 1}; "
            "expected a cache that is as long as its tokens: a static one is not known"
        )
    return None if attention_mask is None else attention_mask[:, -kv_length:]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    position_ids: Tensor | None = None,
    is_causal: bool | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as Transformers calls it: query, key and value [batch, heads, tokens, dim]; attention_mask [batch,
    keys] tells which keys are no padding; s_aux: sinks."""
    _refuse_strangers(module)
    if dropout:
        raise NotImplementedError(f"dropout is {dropout}; attention that drops weights has no one right answer")
    batch, _heads, queries, _dim = query.shape
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    if batch > 1 or queries != k.shape[1] or (position_ids is not None and position_ids.shape != (1, queries)):
        position_ids = None  # they tell of sequences that are packed into one row
    keys = k.shape[1]
    k, v, step = _one_after_another(k, v)
    starts, counts, firsts = packing.sequences(attention_mask, position_ids, batch, queries, keys, step)
    y = forward.attention(
        q.flatten(0, 1),
        k,
        v,
        query_starts=starts,
        key_counts=counts,
        first_keys=firsts,
        scale=module.head_dim**-0.5 if scaling is None else scaling,
        softcap=softcap or 0.0,
        causal=module.is_causal if is_causal is None else is_causal,
        window=sliding_window or 0,
        sinks=s_aux,
    )
    return y.unflatten(0, (batch, queries)), None


def _one_after_another(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
    """[batch, tokens, heads, dim] as [tokens, heads, dim], and how many of these lie from one row to the next.

    A cache is not copied: where it has its tokens at equal distances, those of other heads, and of what lies between
    two rows, count as tokens too.
    """
    batch, tokens = k.shape[:2]
    differentiable = torch.is_grad_enabled() and (k.requires_grad or v.requires_grad)
    steps = {x.stride(0) // x.stride(1) for x in (k, v) if x.stride(1) > 0 and x.stride(0) % x.stride(1) == 0}
    if batch == 1 or differentiable or torch.compiler.is_compiling() or len(steps) != 1 or min(steps) <= tokens:
        return k.flatten(0, 1), v.flatten(0, 1), tokens
    (step,) = steps
    size = (batch - 1) * step + tokens
    k, v = (x.as_strided((size, *x.shape[2:]), x.stride()[1:], x.storage_offset()) for x in (k, v))
    return k, v, step
