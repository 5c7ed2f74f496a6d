"""What comes before the head, by CONTRACT.md 10, inside a vLLM model: linears, norms, gates, rotary, attention.

Linears are made so when vLLM builds them, since it packs their weights away after loading; the other layers change
their class once the model is loaded. A model of which one layer is not known is refused, naming the layer. (Models that
vLLM runs by Transformers' code: _transformers.)

Over ranks, vLLM splits the sums of a row-parallel linear and adds up rounded parts. Here it has rows of its weight
instead, as the others do, its inputs are gathered and so are its outputs: every sum is made in one place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import get_current_vllm_config_or_none
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.layers import activation, layernorm
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.fused_moe.router.gate_linear import GateLinear
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.model_executor.layers.linear import LinearBase, RowParallelLinear, UnquantizedLinearMethod
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.common import ApplyRotaryEmb
from vllm.model_executor.layers.rotary_embedding.linear_scaling_rope import LinearScalingRotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.llama3_rope import Llama3RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.yarn_scaling_rope import YaRNScalingRotaryEmbedding
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

from isologit import forward
from isologit.integrations.vllm import _experts, _settings

# Whose own code adds residuals in their type and multiplies nothing else.
_MODELS = (
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GptOssForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)
_BY_TRANSFORMERS = "TransformersForCausalLM"
running: dict[str, Any] = {}  # threads and processors, of the worker of this process


class Refused(Exception):
    """A layer that is not known."""


def wanted() -> bool:
    """Whether the model that is being built is to be ours."""
    config = get_current_vllm_config_or_none()
    settings = None if config is None else _settings.read(config.additional_config)
    return settings is not None and settings.scope == "model"


def install() -> None:
    """Unquantised linears, of models whose option asks for it, keep their weights and are ours."""
    create_weights = UnquantizedLinearMethod.create_weights

    def create(
        self: UnquantizedLinearMethod,
        layer: nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        sizes = (input_size_per_partition, output_partition_sizes, input_size, output_size)
        if wanted():
            self.__class__ = ExactLinearMethod
            if isinstance(layer, RowParallelLinear) and layer.tp_size > 1:
                sizes = (input_size, [output_size // layer.tp_size], input_size, output_size)
                kwargs["weight_loader"] = lambda param, loaded: param.data.copy_(_rows_of(layer, loaded))
        create_weights(self, layer, *sizes, *args, **kwargs)

    UnquantizedLinearMethod.create_weights = create
    _experts.install(wanted)


def _rows_of(layer: RowParallelLinear, whole: Tensor) -> Tensor:
    """This rank's rows of a weight, or of a bias."""
    rows = layer.output_size // layer.tp_size
    return whole.narrow(0, layer.tp_rank * rows, rows)


class ExactLinearMethod(UnquantizedLinearMethod):
    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Nothing: the weight is read where it is, at each call."""

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return forward.linear(x, layer.weight, bias, **running)


class _RowParallelLinear(RowParallelLinear):
    def forward(self, input_: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        if self.input_is_parallel and self.tp_size > 1:
            input_ = tensor_model_parallel_all_gather(input_, -1)
        bias = None if self.skip_bias_add or self.bias is None else self.bias
        if bias is not None and self.tp_size > 1:
            bias = _rows_of(self, bias)
        output = self.quant_method.apply(self, input_, bias)
        if self.tp_size > 1:
            output = tensor_model_parallel_all_gather(output, -1)
        return (output, self.bias if self.skip_bias_add else None) if self.return_bias else output


class RmsNorm(layernorm.RMSNorm):
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        return _norm(self, x, residual, one_plus_weight=False)


class _GemmaRmsNorm(layernorm.GemmaRMSNorm):
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        return _norm(self, x, residual, one_plus_weight=True)


def _norm(layer: Any, x: Tensor, residual: Tensor | None, one_plus_weight: bool) -> Tensor | tuple[Tensor, Tensor]:
    """vLLM adds the residual here too. The norm is that of the stored sum, which is rounded (by torch, once)."""
    total = x if residual is None else x + residual
    weight = layer.weight if getattr(layer, "has_weight", True) else None
    result = forward.rms_norm(total, weight, layer.variance_epsilon, one_plus_weight=one_plus_weight, **running)
    return result if residual is None else (result, total)


class _SiluAndMul(activation.SiluAndMul):
    def forward(self, x: Tensor) -> Tensor:
        return forward.gate(*x.chunk(2, dim=-1), **running)


class _GeluAndMul(activation.GeluAndMul):
    def forward(self, x: Tensor) -> Tensor:
        return forward.gate(*x.chunk(2, dim=-1), kind="gelu_tanh", **running)


def _turn(self: RotaryEmbedding, positions: Tensor, query: Tensor, key: Tensor | None = None) -> tuple[Tensor, Any]:
    layout = "halves" if self.is_neox_style else "pairs"

    def turned(x: Tensor) -> Tensor:
        heads = x.view(*x.shape[:-1], -1, self.head_size) if x.ndim == 2 else x
        places, (frequencies, factor) = positions.flatten(), self.isologit_angles
        flat = forward.rotary(heads, places, frequencies, layout=layout, factor=factor, **running)
        return flat.view(x.shape)

    return turned(query), None if key is None else turned(key)


_Rotary = {
    cls: type(cls.__name__, (cls,), {"forward": _turn})
    for cls in (RotaryEmbedding, LinearScalingRotaryEmbedding, Llama3RotaryEmbedding, YaRNScalingRotaryEmbedding)
}


def _angles(name: str, rotary: RotaryEmbedding, parameters: dict[str, Any]) -> tuple[Tensor, float]:
    """Frequencies, and the factor of yarn. parameters: those of the model's config."""
    scaling: dict[str, Any] = {}
    if isinstance(rotary, LinearScalingRotaryEmbedding):
        (factor,) = rotary.scaling_factors  # more than one is of vLLM's own LoRA
        scaling = {"rope_type": "linear", "factor": factor}
    elif isinstance(rotary, Llama3RotaryEmbedding):
        scaling = {
            "rope_type": "llama3",
            "factor": rotary.scaling_factor,
            "low_freq_factor": rotary.low_freq_factor,
            "high_freq_factor": rotary.high_freq_factor,
            "original_max_position_embeddings": rotary.orig_max_position,
        }
    elif isinstance(rotary, YaRNScalingRotaryEmbedding):
        # vLLM keeps the factor in f64 alone, and what it is made of not at all.
        scaling = parameters | {
            "rope_type": "yarn",
            "factor": rotary.scaling_factor,
            "beta_fast": rotary.beta_fast,
            "beta_slow": rotary.beta_slow,
            "truncate": rotary.truncate,
            "original_max_position_embeddings": rotary.max_position_embeddings,
        }
        if abs(forward.rotary_factor(scaling) / rotary.mscale - 1) > 1e-6:
            raise Refused(f"{name} has the attention factor {rotary.mscale}; expected {forward.rotary_factor(scaling)}")
    return forward.rotary_frequencies(rotary.base, rotary.rotary_dim, scaling), forward.rotary_factor(scaling)


class ExactAttention(CPUAttentionBackendImpl):
    """Over vLLM's own pages: [blocks, kv_heads, block_size, 2, head_size], keys and values as they are."""

    def _pages(self, kv_cache: Tensor) -> tuple[Tensor, Tensor]:
        blocks, heads, size, _ = kv_cache.shape
        halves = kv_cache.view(blocks, heads, 2 * size, -1).chunk(2, dim=2)
        keys, values = (half.transpose(1, 2) for half in halves)  # [blocks, block_size, kv_heads, head_size]
        return keys, values

    def do_kv_cache_update(
        self, layer: nn.Module, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        keys, values = self._pages(kv_cache)
        slots = slot_mapping[: key.shape[0]]
        there = slots >= 0
        if not bool(there.all()):
            slots, key, value = slots[there], key[: slots.shape[0]][there], value[: slots.shape[0]][there]
        pages, places = slots // keys.shape[1], slots % keys.shape[1]
        keys[pages, places] = key[: slots.shape[0]]
        values[pages, places] = value[: slots.shape[0]]

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Any,
        output: Tensor,
        output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:
        if attn_metadata is None:  # a warm-up without a cache
            return output
        count = attn_metadata.num_actual_tokens
        keys, values = self._pages(kv_cache)
        result = forward.attention(
            query[:count],
            keys,
            values,
            query_starts=attn_metadata.query_start_loc,
            key_counts=attn_metadata.seq_lens,
            block_table=attn_metadata.block_table,
            scale=self.scale,
            softcap=self.logits_soft_cap,
            causal=attn_metadata.causal,
            window=max(self.sliding_window, 0),
            sinks=self.sinks,
            **running,
        )
        output[:count] = result.view_as(output[:count])
        return output


_CLASSES: dict[type, type] = {
    layernorm.RMSNorm: RmsNorm,
    layernorm.GemmaRMSNorm: _GemmaRmsNorm,
    activation.SiluAndMul: _SiluAndMul,
    activation.GeluAndMul: _GeluAndMul,
    **_Rotary,
}


def put_in_place(model: nn.Module, config: Any, threads: int, processors: Any) -> None:
    """Changes the layers of a loaded model. Raises Refused, and has changed none, where something is not known."""
    changes_of = _changes_of(model)
    if not config.model_config.enforce_eager:
        raise Refused("the model is compiled, and the body runs eagerly (set enforce_eager)")
    if config.lora_config is not None:
        raise Refused("LoRA in the body adds rounded products")
    text = config.model_config.hf_text_config
    changes = [
        change for name, module in model.named_modules() for change in changes_of(name, module, type(model), text)
    ]
    for change in changes:
        change()
    running.update(threads=threads, processors=processors)


def _changes_of(model: nn.Module) -> Callable[..., list[Callable[[], None]]]:
    """What tells the changes of each module of the model."""
    name = type(model).__name__
    if name == _BY_TRANSFORMERS:
        # What it imports, no other model needs.
        from isologit.integrations.vllm import _transformers

        if model.text_config.model_type in _transformers.FAMILIES:
            return _transformers.changes
        name = f"{name} with model_type {model.text_config.model_type!r}"
    elif name in _MODELS:
        return changes
    raise Refused(f"the body of {name} is not known; expected one of {', '.join(_MODELS)}, or OLMo 2")


def changes(name: str, module: nn.Module, model: type, config: Any) -> list[Callable[[], None]]:
    """What makes the module ours, none where nothing is to be done. Raises Refused where it is not known."""
    cls = type(module)
    if isinstance(module, LinearBase):
        if type(module.quant_method) is not ExactLinearMethod:
            raise Refused(f"{name} multiplies by {type(module.quant_method).__name__}; expected an unquantised weight")
        if cls is GateLinear:
            return [becomes(module, _experts.Gate, isologit_running=running)]
        return [_row_parallel_change(name, module)] if isinstance(module, RowParallelLinear) else []
    if isinstance(module, LogitsProcessor):
        if module.scale != 1.0:
            raise Refused(f"{name} multiplies logits by {module.scale}")
        return [module.isologit_take_softcap]
    if isinstance(module, Attention):
        return [_attention_change(name, module)]
    if cls is MoERunner:
        if what := _experts.unknown(module):
            raise Refused(f"{name} {what}")
        limit = getattr(config, "swiglu_limit", None)
        return [becomes(module, _experts.Experts, isologit_running=running, isologit_limit=limit)]
    if cls in _CLASSES:
        _check_layer(name, module)
        own = {}
        if isinstance(module, RotaryEmbedding):
            own["isologit_angles"] = _angles(name, module, getattr(config, "rope_parameters", None) or {})
        return [becomes(module, _CLASSES[cls], **own)]
    if cls in _CLASSES.values():  # one of a cache that two layers, or models, share
        return []
    neutral = isinstance(
        module, nn.ModuleList | VocabParallelEmbedding | ApplyRotaryEmb | RoutedExperts | _experts.ExactExpertsMethod
    )
    own = cls.__module__.startswith("vllm.model_executor.models.")
    if neutral or own:
        return []
    raise Refused(f"{name} is {cls.__module__}.{cls.__qualname__}, which is not known as a part of {model.__name__}")


def becomes(module: nn.Module, cls: type, **attributes: Any) -> Callable[[], None]:
    def change() -> None:
        vars(module).update(attributes)
        module.__class__ = cls

    return change


def _row_parallel_change(name: str, module: RowParallelLinear) -> Callable[[], None]:
    if type(module) not in (RowParallelLinear, _RowParallelLinear):
        raise Refused(f"{name} is {type(module).__qualname__}; expected RowParallelLinear")
    if module.tp_size > 1 and (not module.reduce_results or module.output_size % module.tp_size):
        raise Refused(f"{name} has {module.output_size} outputs for {module.tp_size} ranks, or leaves them unadded")
    return becomes(module, _RowParallelLinear)


def _check_layer(name: str, module: Any) -> None:
    if getattr(module, "variance_size_override", None) is not None:
        raise Refused(f"{name} norms {module.variance_size_override} of its elements")
    if isinstance(module, activation.GeluAndMul) and module.approximate != "tanh":
        raise Refused(f"{name} is GELU by erf; expected that by tanh")


def _attention_change(name: str, layer: Attention) -> Callable[[], None]:
    impl = layer.impl
    if type(impl) is not CPUAttentionBackendImpl:
        raise Refused(f"{name} attends by {type(impl).__name__}; expected vLLM's CPU backend")
    if impl.alibi_slopes is not None or impl.is_fp8_kv_cache or impl.attn_type != "decoder":
        raise Refused(f"{name} has ALiBi slopes, an f8 cache or is no decoder's")

    def change() -> None:
        impl.__class__ = ExactAttention

    return change


def is_exact(model: nn.Module) -> bool:
    """Whether the layers are ours, every one of them."""
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    return bool(layers) and all(isinstance(layer.impl, ExactAttention) for layer in layers)


@torch.inference_mode()
def check(model: nn.Module) -> None:
    """Raises unless a linear of the model answers as forward.linear does."""
    linears = (module for module in model.modules() if isinstance(module, LinearBase))
    layer = next(linear for linear in linears if not isinstance(linear, RowParallelLinear))
    x = torch.ones(1, layer.input_size, dtype=layer.weight.dtype)
    found = layer(x)
    found = found[0] if isinstance(found, tuple) else found
    if not torch.equal(found, forward.linear(x, layer.weight, layer.bias)):
        raise Refused(f"{type(layer).__name__} does not call isologit")
