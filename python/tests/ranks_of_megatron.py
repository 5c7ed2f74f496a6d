"""Four ranks of a real GPTModel of Megatron Core whose vocabulary, and then its sequence too, is split over them, by
gloo on the CPU: its hidden states through isologit's output_processor, and through the whole head in one process.
Prints, in JSON, what differs: for each rank {case: {result or gradient: how many of its values}}."""

import contextlib
import json
import os
import sys
import tempfile
from unittest import mock

import torch
import torch.distributed as dist
from adapters import package

import isologit
from isologit.integrations import megatron

RANKS, VOCAB, PADDED, SIZE, LENGTH = 4, 38, 40, 16, 8
OUTPUTS = ("logprobs", "entropy", "lse", "rank")
CASES = {
    "untied": {},
    "tied": {"tied": True},
    "sequence": {"sequence_parallel": True},
    "tied, sequence": {"tied": True, "sequence_parallel": True},
}


def model_of(tied=False, sequence_parallel=False):
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer import TransformerConfig

    torch.manual_seed(0)
    config = TransformerConfig(
        num_layers=1,
        hidden_size=SIZE,
        num_attention_heads=4,
        use_cpu_initialization=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=0.5,
        tensor_model_parallel_size=RANKS,
        sequence_parallel=sequence_parallel,
    )
    return GPTModel(config, get_gpt_layer_local_spec(), PADDED, LENGTH, share_embeddings_and_output_weights=tied)


def gathered(own, dim):
    parts = [torch.empty_like(own) for _ in range(RANKS)]
    dist.all_gather(parts, own.detach().contiguous())
    return torch.cat(parts, dim)


def different(found, wanted):
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return int((found != wanted).sum())


def differences(rank, tied=False, sequence_parallel=False):
    model = model_of(tied, sequence_parallel)
    ids = torch.arange(2 * LENGTH).reshape(2, LENGTH) % VOCAB
    labels = (3 * ids + 1) % VOCAB
    mask = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).triu(1)
    context = {"temperature": 0.75, "outputs": OUTPUTS, "vocab_size": VOCAB, "gradients": "exact"}
    kept = {}

    def processor(*, hidden_states, output_layer, output_weight, **others):
        kept["hidden"] = hidden_states.detach().requires_grad_()  # so that tied weights have the head's gradient alone
        kept["weight"] = output_layer.weight if output_weight is None else output_weight
        return megatron.output_processor(
            hidden_states=kept["hidden"], output_layer=output_layer, output_weight=output_weight, **others
        )

    positions = torch.arange(LENGTH).expand(2, LENGTH)
    options = {"labels": labels, "output_processor": processor, "output_processor_context": context}
    scores = model(ids, positions, mask, **options)
    part = kept["hidden"].shape[0]  # of the sequence
    assert part == (LENGTH // RANKS if sequence_parallel else LENGTH) and kept["weight"].shape[0] == PADDED // RANKS
    hidden = gathered(kept["hidden"], 0) if sequence_parallel else kept["hidden"].detach()
    hidden = hidden.clone().requires_grad_()
    weight = gathered(kept["weight"], 0).requires_grad_()
    wanted = isologit.score(hidden.transpose(0, 1), weight, labels, **context)
    upstream = torch.linspace(-1, 1, labels.numel()).reshape(labels.shape)
    for found in (scores, wanted):
        ((found.logprobs * upstream).sum() + found.entropy.square().sum()).backward()
    first = part * rank * sequence_parallel
    rows = slice(PADDED // RANKS * rank, PADDED // RANKS * (rank + 1))
    found = {name: different(getattr(scores, name), getattr(wanted, name)) for name in OUTPUTS}
    found["dhidden"] = different(kept["hidden"].grad, hidden.grad[first : first + part])
    found["dweight"] = different(kept["weight"].grad, weight.grad[rows])
    assert weight.grad.abs().max() > 0.1 and hidden.grad.abs().max() > 0.1
    logits = gathered(model(ids, positions, mask), 2)[..., :VOCAB]  # Megatron's own, sums in f32
    logprobs = torch.log_softmax(logits.double() / 0.75, -1).gather(-1, labels[..., None])[..., 0]
    found["far from Megatron's"] = int(((scores.logprobs - logprobs).abs() > 2e-5).sum())
    return found


def of_its_own_test(rank):
    """Logits and targets of Megatron's test_cross_entropy.py: its loss, and isologit's of the same parts."""
    from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy

    from isologit import parallel

    own, target = torch.arange(8.0).repeat(16, 4), torch.arange(0, 32, 2)
    stock = vocab_parallel_cross_entropy(own.clone(), target)
    logprobs = parallel.logprobs_of_logits(own, target)
    whole = isologit.logprobs_of_logits(own.repeat(1, RANKS), target)
    assert (stock - torch.tensor([10.2309, 8.2309, 6.2309, 4.2309]).repeat(4)).abs().max() < 1e-4
    return {"logprobs": different(logprobs, whole), "far from Megatron's": int(((stock + logprobs).abs() > 2e-6).sum())}


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    with package("megatron"), mock.patch.object(torch.cuda, "current_device", lambda: "cpu"):
        from megatron.core import parallel_state
        from megatron.core.tensor_parallel import random
        from megatron.core.transformer.torch_norm import WrappedTorchNorm

        # Of each token alone, so right for a part of the sequence; it refuses for the sake of its weight's gradient.
        WrappedTorchNorm.__new__ = lambda cls, config, hidden_size, eps=1e-5: torch.nn.LayerNorm(hidden_size, eps)
        random.CudaRNGStatesTracker.fork = lambda *_: contextlib.nullcontext()
        parallel_state.initialize_model_parallel(RANKS, 1)
        found = {name: differences(rank, **options) for name, options in CASES.items()}
        found["its own test"] = of_its_own_test(rank)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found, file)
    dist.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(RANKS):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    work(rank, folder)
                    code = 0
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                os._exit(code)
            children.append(child)
        if any([os.waitpid(child, 0)[1] for child in children]):  # a list: all are waited for
            sys.exit("a rank failed")
        print(json.dumps([json.load(open(f"{folder}/{rank}.json")) for rank in range(RANKS)]))
