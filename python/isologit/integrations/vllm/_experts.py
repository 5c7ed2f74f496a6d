"""Experts of a vLLM model by CONTRACT.md 10: the router, what each expert makes, and their weighed sum.

vLLM packs the experts' weights away after loading; here they stay. Over ranks each must have whole experts: what they
make is exchanged as it is, from the one rank that made it, and weighed and summed by all ranks alike.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.router.gate_linear import GateLinear
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

from isologit import _experts, forward

_ALPHA = 1.702  # of gpt-oss's gate, in no config


def install(wanted: Callable[[], bool]) -> None:
    """Unquantised experts, of models whose option asks for it, keep their weights."""
    create_weights = UnquantizedFusedMoEMethod.create_weights

    def create(self: UnquantizedFusedMoEMethod, *args: Any, **kwargs: Any) -> None:
        if wanted():
            self.__class__ = ExactExpertsMethod
        create_weights(self, *args, **kwargs)

    UnquantizedFusedMoEMethod.create_weights = create


class ExactExpertsMethod(UnquantizedFusedMoEMethod):
    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Nothing: the weights are read where they are, at each call."""


class Gate(GateLinear):
    """The router's linear, in f32."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, None]:
        logits = forward.linear(x.float(), self.weight, self.bias, **self.isologit_running)
        return (logits, None) if self.return_bias else logits


class Experts(MoERunner):
    def forward(self, hidden_states: Tensor, router_logits: Tensor, *_: Any, **__: Any) -> Tensor:
        if self.gate is not None:
            router_logits, _ = self.gate(hidden_states)
        routed, running = self.routed_experts, self.isologit_running
        weights, chosen = forward.router(router_logits, routed.top_k, normalized=routed.renormalize, **running)
        if routed.expert_map is not None:
            here = routed.expert_map[chosen].long()
            chosen = torch.where(here < 0, routed.local_num_experts, here)
        if routed.activation == MoEActivation.SILU:
            expert, parameters = _experts.gated("silu", **running), (routed.w13_weight, routed.w2_weight)
        else:
            expert = _experts.clamped(_ALPHA, self.isologit_limit, **running)
            parameters = (routed.w13_weight, routed.w13_bias, routed.w2_weight, routed.w2_bias)
        made = _experts.outputs(hidden_states, chosen, expert, *parameters)
        if routed.expert_map is not None:
            made = tensor_model_parallel_all_reduce(made)  # of all ranks but one they are zeros: nothing is rounded
        return forward.combine(made, weights, **running)


def unknown(experts: MoERunner) -> str:
    """What about them is not known, if anything."""
    routed, ranks = experts.routed_experts, experts.moe_config.moe_parallel_config
    if type(routed.quant_method) is not ExactExpertsMethod:
        return f"multiplies by {type(routed.quant_method).__name__}; expected unquantised weights"
    if experts.shared_experts is not None or experts.routed_scaling_factor != 1.0:
        return "has shared experts, or scales what the others make"
    if routed.activation not in (MoEActivation.SILU, MoEActivation.SWIGLUOAI):
        return f"gates by {routed.activation.value}; expected silu or swigluoai"
    if ranks.dp_size > 1 or ranks.enable_eplb or ranks.is_sequence_parallel:
        return "is balanced over ranks, or over their data"
    if ranks.tp_size > 1:
        return f"splits its experts' sums over {ranks.tp_size} ranks (set enable_expert_parallel: whole experts)"
    return ""
