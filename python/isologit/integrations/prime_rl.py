"""In the place of prime-rl's output linear."""

from torch import Tensor

from isologit.nn import LMHead


class OutputLinear(LMHead):
    """Called as head(hidden, labels, temperature): {"logprobs", "entropy"}, or {"logits"} without labels."""

    def forward(
        self, hidden_states: Tensor, labels: Tensor | None = None, temperature: float | Tensor | None = None
    ) -> dict[str, Tensor]:
        if labels is None:
            return {"logits": super().forward(hidden_states)}
        scored = self.logprobs(
            hidden_states, labels, temperature=1.0 if temperature is None else temperature, return_entropy=True
        )
        return {"logprobs": scored.logprobs, "entropy": scored.entropy}
