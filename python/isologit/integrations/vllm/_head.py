"""vLLM's layer from hidden states to logits, with the product replaced.

Only `_apply_head` is: all of vLLM's paths to logits lead through it (forward, get_top_tokens, get_top_k_tokens and the
wrapper for LoRA), and what comes after it, gathering over ranks, cutting off padded rows, soft caps and scales, is the
model's own code in the model's own order.
"""

from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
    VocabParallelEmbeddingShardIndices,
)

import isologit
from isologit.integrations.vllm import _processors, _settings


class IsologitLogitsProcessor(LogitsProcessor):
    """The option is read here, while vLLM builds the model with its configuration at hand, and not later."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.isologit = _settings.read(get_current_vllm_config().additional_config)
        self.isologit_calls = 0
        self.isologit_rows = 0
        self.isologit_processors = _processors.bound() if self.isologit else frozenset()
        self.isologit_softcap: float | None = None
        self.isologit_gathers = True
        self.isologit_indices: VocabParallelEmbeddingShardIndices | None = None  # of the head, where logits are kept
        if self.isologit:
            # prime-rl's own product, which its switch asks for in every layer, would come before this one.
            self._fp32_lm_head_enabled = False

    def _apply_head(
        self, lm_head: VocabParallelEmbedding, hidden_states: Tensor, embedding_bias: Tensor | None
    ) -> Tensor:
        """f32 logits of this rank's rows of the weight, padded ones too. The weight is read at each call: vLLM's
        updates write into it without telling."""
        if self.isologit is None:
            return super()._apply_head(lm_head, hidden_states, embedding_bias)
        weight = _weight(lm_head)
        if not self.isologit_gathers:
            self.isologit_indices = lm_head.shard_indices
        self.isologit_calls += 1
        self.isologit_rows += hidden_states.shape[:-1].numel()
        return isologit.logits(
            hidden_states,
            weight,
            bias=embedding_bias,
            softcap=self.isologit_softcap,
            arithmetic=self.isologit.arithmetic,
            threads=self.isologit.threads,
            processors=self.isologit_processors,
        )

    def _gather_logits(self, logits: Tensor) -> Tensor | None:
        return super()._gather_logits(logits) if self.isologit_gathers else logits

    def isologit_take_softcap(self) -> None:
        """From now on the soft cap is rounded once, and vLLM's own code has none to apply. Not with LoRA, whose part is
        added after this."""
        self.isologit_softcap, self.soft_cap = self.soft_cap, None

    def extra_repr(self) -> str:
        return super().extra_repr() + f", isologit=({self.isologit or 'off'})"


def _weight(lm_head: VocabParallelEmbedding) -> Tensor:
    method = type(lm_head.quant_method)
    if method not in (UnquantizedEmbeddingMethod, UnquantizedLinearMethod):
        raise ValueError(
            f"isologit: the head's quantisation method is {method.__module__}.{method.__name__}; expected an "
            "unquantised head. Leave the head out of the quantisation (modules_to_not_convert, or ignore, of its "
            'config), or take "isologit" out of additional_config'
        )
    weight = lm_head.weight
    if weight.shape[0] != lm_head.num_embeddings_per_partition:
        raise ValueError(
            f"isologit: the head's weight is {list(weight.shape)}; expected {lm_head.num_embeddings_per_partition} "
            "rows. vLLM's CPU build empties the weight of a head that a quantised model leaves unquantised: serve the "
            'model unquantised, or take "isologit" out of additional_config'
        )
    return weight.detach()
