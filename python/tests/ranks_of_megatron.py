"""Two tensor-parallel ranks of Megatron Core's real GPTModel, whose output_processor is isologit's. Prints, in JSON, for
each rank {case: {what: how far it is off}}."""

import contextlib
from unittest import mock

import forked
import torch
import torch.distributed as dist

import isologit
from isologit import integrations

RANKS, VOCAB, SIZE, LENGTH = 2, 40, 16, 6
IDS = (7 * torch.arange(2 * LENGTH) % VOCAB).reshape(2, LENGTH)  # of both ranks
LABELS = (IDS + 13) % VOCAB
UPSTREAM = torch.linspace(-1, 1, 2 * LENGTH).reshape(2, LENGTH)
CASES = {
    f"{'tied' if tied else 'untied'}, {'sequence' if sequence else 'tensor'} parallel": (tied, sequence)
    for tied in (True, False)
    for sequence in (True, False)
}


def model_of(tied: bool, sequence: bool) -> torch.nn.Module:
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer import TransformerConfig

    torch.manual_seed(0)
    config = TransformerConfig(
        num_layers=1,
        hidden_size=SIZE,
        num_attention_heads=2,
        use_cpu_initialization=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=0.5,
        tensor_model_parallel_size=RANKS,
        sequence_parallel=sequence,
        gradient_accumulation_fusion=False,
    )
    options = {"share_embeddings_and_output_weights": tied, "parallel_output": True}
    return GPTModel(config, get_gpt_layer_local_spec(), VOCAB, LENGTH, **options)


def torch_layer_norm(_: type, config: object, hidden_size: int, eps: float = 1e-5, **__: object) -> torch.nn.Module:
    return torch.nn.LayerNorm(hidden_size, eps)


def gathered(part: torch.Tensor) -> torch.Tensor:
    """Of all ranks, along the first dimension."""
    parts = [torch.empty_like(part) for _ in range(RANKS)]
    dist.all_gather(parts, part.detach().contiguous())
    return torch.cat(parts)


def gradients(model: torch.nn.Module, losses: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (losses * UPSTREAM).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def off(got: torch.Tensor, right: torch.Tensor, least: float = 0.0) -> float:
    """The largest difference, beside the largest of what is right, or beside `least`."""
    assert got.shape == right.shape
    return float((got - right).abs().max()) / max(float(right.abs().max()), least)


def differences(tied: bool, sequence: bool) -> dict[str, float]:
    model, seen = model_of(tied, sequence), []

    def processor(**given):
        seen.append(given["hidden_states"])
        return integrations.megatron.output_processor(**given)

    mask = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).triu(1)
    inputs = (IDS, torch.arange(LENGTH).expand(2, LENGTH), mask)
    options = {"temperature": 0.7, "outputs": ("logprobs", "entropy", "rank"), "gradients": "exact"}
    called = {"labels": LABELS, "output_processor": processor}
    got = model(*inputs, **called, output_processor_context=options)
    weight = model.shared_embedding_or_output_weight() if tied else model.output_layer.weight
    assert weight.shape == (VOCAB // RANKS, SIZE) and len(seen) == 1
    assert seen[0].shape == (LENGTH // (RANKS if sequence else 1), 2, SIZE)
    hidden = gathered(seen[0]) if sequence else seen[0].detach()
    right = isologit.score(hidden.transpose(0, 1), gathered(weight), LABELS, **options)
    found = {
        name: float((getattr(got, name) != getattr(right, name)).sum()) for name in ("logprobs", "entropy", "rank")
    }
    # Megatron's own loss, and what of it comes to the parameters: sums in f32, over the ranks.
    stock = model(*inputs, labels=LABELS)
    ours = model(*inputs, **called, output_processor_context={"gradients": "exact"})
    found["beside Megatron's loss"] = off(-ours.logprobs.detach(), stock.detach())
    of_stock, of_ours = gradients(model, stock), gradients(model, -ours.logprobs)
    assert of_stock.keys() == of_ours.keys() and len(of_ours) > 10
    # That of the keys' bias is 0 but for roundings.
    least = 1e-3 * max(float(gradient.abs().max()) for gradient in of_stock.values())
    found["beside its gradients"] = max(off(of_ours[name], of_stock[name], least) for name in of_ours)
    return found


def work(rank: int) -> dict[str, dict[str, float]]:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer import torch_norm

    parallel_state.initialize_model_parallel(RANKS, 1)
    with (
        mock.patch.object(torch.cuda, "current_device", lambda: "cpu"),  # where its buffers go
        mock.patch.object(random.CudaRNGStatesTracker, "fork", lambda *_: contextlib.nullcontext()),
        # It refuses torch's norm of a part of a sequence, whose parameters' gradients it would have to add up.
        mock.patch.object(torch_norm.WrappedTorchNorm, "__new__", torch_layer_norm),
    ):
        return {name: differences(*case) for name, case in CASES.items()}


if __name__ == "__main__":
    torch.compiler.set_stance("force_eager")
    forked.say(work, RANKS)
