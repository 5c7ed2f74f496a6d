"""In the place of TRL's selective_log_softmax and its trainers' _get_per_token_logps_and_entropies."""

from typing import Any

import torch
from torch import Tensor, nn

from isologit import hf
from isologit._score import linear_logprobs
from isologit.nn import LMHead


def selective_log_softmax(
    hidden: Tensor,
    weight: Tensor,
    index: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    bias: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """selective_log_softmax(F.linear(hidden, weight, bias) / temperature, index), from the hidden states.

    index [...] or [..., K]; the options are those of linear_logprobs.
    """
    return linear_logprobs(hidden, weight, index, temperature=temperature, bias=bias, **options).logprobs


def get_per_token_logps_and_entropies(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    batch_size: int | None = None,
    compute_entropy: bool = False,
    *,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Logprobs [B, logits_to_keep] of the last tokens of input_ids [B, T], and their entropies or None.

    The token at t is scored from the hidden state at t - 1, as TRL does. The model's head may be its own or one that
    isologit.hf.install has put there; its transforms are those of the model's configuration.
    """
    output = model.get_output_embeddings()
    if isinstance(output, LMHead):
        head = output
    else:
        config = model.config.get_text_config()
        head = LMHead(
            output.weight,
            output.bias,
            vocab_size=min(config.vocab_size, output.weight.shape[0]),
            **hf.transforms(model.config),
        )
    logprobs, entropies = [], []
    step = batch_size or input_ids.shape[0]
    for first in range(0, input_ids.shape[0], step):
        ids = input_ids[first : first + step]
        body = model.base_model(input_ids=ids, attention_mask=attention_mask[first : first + step], use_cache=False)
        hidden = body.last_hidden_state[:, -logits_to_keep - 1 : -1]
        scored = head.logprobs(
            hidden, ids[:, -logits_to_keep:], temperature=temperature, return_entropy=compute_entropy
        )
        logprobs.append(scored.logprobs)
        entropies.append(scored.entropy)
    return torch.cat(logprobs), torch.cat(entropies) if compute_entropy else None
