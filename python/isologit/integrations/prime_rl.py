"""prime-rl: the head that inject_prime_lm_head puts into a model."""

from importlib import import_module
from typing import Any

from torch import Tensor, nn

from isologit import hf, logits
from isologit.integrations._adapter import Adapter
from isologit.nn import LMHead


class OutputLinear(LMHead):
    """Called as head(hidden, labels, temperature): {"logprobs", "entropy"}, or {"logits"} without labels.

    support_token_ids [..., K] adds "support_logprobs" [..., K], their logprobs; support_topk=K those of the K ids with
    the greatest logits, and "topk_token_ids" [..., K].
    """

    def forward(
        self,
        hidden_states: Tensor,
        labels: Tensor | None = None,
        temperature: float | Tensor | None = None,
        *,
        support_token_ids: Tensor | None = None,
        support_topk: int | None = None,
    ) -> dict[str, Tensor]:
        if labels is None:
            return {"logits": logits(hidden_states, self.weight, **self._trained({}))}
        if support_token_ids is not None and support_topk is not None:
            raise ValueError("support_token_ids and support_topk are given; expected one of them")
        options = {"temperature": 1.0 if temperature is None else temperature}
        scored = self.logprobs(hidden_states, labels, return_entropy=True, top_k=support_topk or 0, **options)
        found = {"logprobs": scored.logprobs, "entropy": scored.entropy}
        if support_topk is not None:
            found |= {"topk_token_ids": scored.top_k_ids, "support_logprobs": scored.top_k_logprobs}
        elif support_token_ids is not None:
            found["support_logprobs"] = self.logprobs(hidden_states, support_token_ids, **options).logprobs
        return found


class LogitsLinear(OutputLinear):
    """The same where prime-rl makes logprobs of logits itself: labels and temperature are left to it."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> dict[str, Tensor]:
        return super().forward(hidden_states)


def inject_prime_lm_head(model: nn.Module, chunk_size: int | None = None) -> None:
    """As prime-rl's own: logprobs and entropies where it is given a chunk_size, which counts for nothing else."""
    former = model.lm_head
    if not isinstance(former, nn.Linear) or former.bias is not None:
        raise NotImplementedError(f"model.lm_head is {former}; expected an nn.Linear without a bias")
    config = model.config.get_text_config()
    kind = LogitsLinear if chunk_size is None else OutputLinear
    size = min(config.vocab_size, former.weight.shape[0])
    model.lm_head = kind(former.weight, vocab_size=size, **hf.transforms(config))
    import_module("prime_rl.trainer.models.layers.lm_head")._patch_model_forward(model)


adapter = Adapter("prime_rl", inject_prime_lm_head=inject_prime_lm_head)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
