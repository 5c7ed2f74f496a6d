"""Two tensor-parallel ranks of Megatron Core's real GPTModel, whose head is isologit's. Prints, in JSON, for each rank
{case: {what: how far it is off}}."""

import contextlib
import importlib
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import foreign
import forked
import torch
import torch.distributed as dist
from adapters import BARE, SKYRL, installed, recorded

import isologit
from isologit import integrations

RANKS, VOCAB, SIZE, LENGTH = 2, 40, 16, 6
IDS = (7 * torch.arange(2 * LENGTH) % VOCAB).reshape(2, LENGTH)  # of both ranks
LABELS = (IDS + 13) % VOCAB
UPSTREAM = torch.linspace(-1, 1, 2 * LENGTH).reshape(2, LENGTH)
# Of verl's Megatron what its output_processor does not need here.
VERL = {
    "verl.models.mcore.util": dict.fromkeys(
        ["build_vlm_attn_mask_thd", "preprocess_packed_seqs", "preprocess_thd_engine"]
        + ["postprocess_packed_seqs_for_dict_output", "postprocess_thd_engine"]
    ),
    "verl.utils.megatron_utils": {"unwrap_model": None},
    "verl.utils.model": {"CausalLMOutputForPPO": SimpleNamespace},
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
    (losses * UPSTREAM[: losses.shape[0], : losses.shape[1]]).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def off(got: torch.Tensor, right: torch.Tensor, least: float = 0.0) -> float:
    """The largest difference, beside the largest of what is right, or beside `least`."""
    assert got.shape == right.shape
    return float((got - right).abs().max()) / max(float(right.abs().max()), least)


class Split(NamedTuple):
    """A model of which a rank has a part, and what it is called with."""

    model: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    tied: bool
    sequence: bool

    @property
    def weight(self) -> torch.Tensor:
        return self.model.shared_embedding_or_output_weight() if self.tied else self.model.output_layer.weight

    def whole(self, hidden: torch.Tensor) -> torch.Tensor:
        """[s, b, H] of all ranks."""
        return gathered(hidden) if self.sequence else hidden.detach()


def split(tied: bool, sequence: bool, ids: torch.Tensor) -> Split:
    mask = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
    inputs = (ids, torch.arange(ids.shape[1]).expand(*ids.shape), mask)
    found = Split(model_of(tied, sequence), inputs, tied, sequence)
    assert found.weight.shape == (VOCAB // RANKS, SIZE)
    return found


def beside_megatron(of: Split, logprobs: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Megatron's own loss, and what of it comes to the parameters: sums in f32, over the ranks."""
    stock = of.model(*of.inputs, labels=labels)[:, : logprobs.shape[1]]
    of_stock, of_ours = gradients(of.model, stock), gradients(of.model, -logprobs)
    assert of_stock.keys() == of_ours.keys() and len(of_ours) > 10
    # That of the keys' bias is 0 but for roundings.
    least = 1e-3 * max(float(gradient.abs().max()) for gradient in of_stock.values())
    return {
        "beside Megatron's loss": off(-logprobs.detach(), stock.detach()),
        "beside its gradients": max(off(of_ours[name], of_stock[name], least) for name in of_ours),
    }


def different(got: torch.Tensor, right: torch.Tensor) -> float:
    return float((got != right).sum())


def of_megatron(tied: bool, sequence: bool) -> dict[str, float]:
    of, seen = split(tied, sequence, IDS), []

    def processor(**given):
        seen.append(given["hidden_states"])
        return integrations.megatron.output_processor(**given)

    options = {"temperature": 0.7, "outputs": ("logprobs", "entropy", "rank"), "gradients": "exact"}
    called = {"labels": LABELS, "output_processor": processor}
    got = of.model(*of.inputs, **called, output_processor_context=options)
    assert len(seen) == 1 and seen[0].shape == (LENGTH // (RANKS if sequence else 1), 2, SIZE)
    right = isologit.score(of.whole(seen[0]).transpose(0, 1), gathered(of.weight), LABELS, **options)
    ours = of.model(*of.inputs, **called, output_processor_context={"gradients": "exact"})
    found = {name: different(getattr(got, name), getattr(right, name)) for name in ("logprobs", "entropy", "rank")}
    return found | beside_megatron(of, ours.logprobs, LABELS)


def of_exact(tied: bool, sequence: bool) -> dict[str, float]:
    """Exact gradients of hidden states and the head's weight, of a vocabulary whose last rows are padding."""
    of, seen = split(tied, sequence, IDS), []

    def processor(*, hidden_states, **given):
        seen.append(hidden_states.detach().requires_grad_())  # so that tied weights have the head's gradient alone
        return integrations.megatron.output_processor(hidden_states=seen[0], **given)

    options = {"outputs": ("logprobs", "entropy", "lse"), "vocab_size": VOCAB - 3, "gradients": "exact"}
    labels = LABELS % (VOCAB - 3)
    got = of.model(*of.inputs, labels=labels, output_processor=processor, output_processor_context=options)
    hidden, weight = of.whole(seen[0]).clone().requires_grad_(), gathered(of.weight).requires_grad_()
    right = isologit.score(hidden.transpose(0, 1), weight, labels, **options)
    for one in (got, right):
        ((one.logprobs * UPSTREAM).sum() + one.entropy.square().sum()).backward()
    found = {name: different(getattr(got, name), getattr(right, name)) for name in options["outputs"]}
    rank, part, rows = dist.get_rank(), seen[0].shape[0], VOCAB // RANKS
    own = hidden.grad[part * rank :][:part] if sequence else hidden.grad
    found["dweight"] = different(of.weight.grad, weight.grad[rows * rank :][:rows])
    return found | {"dhidden": different(seen[0].grad, own)}


def of_its_own_test() -> dict[str, float]:
    """Logits and targets of Megatron's test of its vocabulary-parallel cross entropy, and its results."""
    from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy

    from isologit import parallel

    own, target = torch.arange(8.0).repeat(16, 4), torch.arange(0, 32, 2)
    stock, logprobs = vocab_parallel_cross_entropy(own.clone(), target), parallel.logprobs_of_logits(own, target)
    whole = isologit.logprobs_of_logits(own.repeat(1, RANKS), target)
    return {"logprobs": different(logprobs, whole), "beside Megatron's loss": off(-logprobs, stock)}


def of_skyrl(tied: bool, sequence: bool) -> dict[str, float]:
    """Its fused head, as its Megatron workers call it: logprobs of each id but the first."""
    head = importlib.import_module(f"{SKYRL.rpartition('.')[0]}.fused_lm_head")
    functions = importlib.import_module(SKYRL)
    of, context, rank = split(tied, sequence, IDS), {}, dist.get_rank()
    options = {"output_processor": head.fused_lm_head_output_processor, "output_processor_context": context}
    hidden = of.model(*of.inputs, **options)
    ids = (rank * VOCAB // RANKS, (rank + 1) * VOCAB // RANKS)
    with installed(integrations.skyrl):
        args = (hidden, context["lm_head_weight"], IDS, *ids, dist.group.WORLD)
        logprobs = functions.from_parallel_hidden_to_logprobs(*args, chunk_size=3)
    right = isologit.linear_logprobs(hidden.detach()[:, :-1], gathered(of.weight), IDS[:, 1:])
    found = {"logprobs": different(logprobs, right.logprobs)}
    return found | beside_megatron(of, logprobs, IDS.roll(-1, 1))


def of_nemo_rl(tied: bool, sequence: bool) -> dict[str, float]:
    """Called as the forward that NeMo-RL gives a GPTModel for its fused loss calls it: with the hidden states of this
    rank's part of the sequence, and ids that it shifts itself."""
    of, rank = split(tied, sequence, IDS), dist.get_rank()
    hidden = of.model(*of.inputs, output_processor=lambda *, hidden_states, **_: hidden_states)
    ids = {"vocab_start_index": rank * (VOCAB // RANKS), "vocab_end_index": (rank + 1) * (VOCAB // RANKS)}
    groups = {"tp_group": dist.group.WORLD, "cp_group": dist.new_group([rank], use_local_synchronization=True)}
    with recorded("nemo_rl"), installed(integrations.nemo_rl):
        function = importlib.import_module("nemo_rl.distributed.model_utils").from_parallel_hidden_states_to_logprobs
        called = (hidden, of.weight, None, IDS)
        try:
            logprobs = function(*called, **ids, **groups, inference_only=False, chunk_size=3)
        except NotImplementedError as error:
            return {"not refused": float(sequence or "set sequence_parallel" not in str(error))}
        if not sequence:
            return {"not refused": 1.0}
        alone = function(*called, **ids, **groups, inference_only=True, chunk_size=3)
    right = isologit.linear_logprobs(of.whole(hidden).transpose(0, 1)[:, :-1], gathered(of.weight), IDS[:, 1:])
    found = {"logprobs": different(logprobs, right.logprobs), "logprobs alone": different(alone, logprobs)}
    assert not alone.requires_grad
    return found | beside_megatron(of, logprobs, IDS.roll(-1, 1))


def of_verl(tied: bool, sequence: bool) -> dict[str, float]:
    """Its output_processor, of one packed batch."""
    module = importlib.import_module("verl.models.mcore.model_forward_fused")
    of = split(tied, sequence, IDS.reshape(1, -1)[:, :LENGTH])
    labels = LABELS.reshape(1, -1)[:, :LENGTH]
    called = {"labels": labels, "output_processor": module.fused_output_processor}
    called["output_processor_context"] = module.FusedOutputProcessorContext(temperature=1.0)
    with installed(integrations.verl):
        if not sequence:
            try:
                of.model(*of.inputs, **called)
            except NotImplementedError as error:
                return {"not refused": float("set sequence_parallel" not in str(error))}
            return {"not refused": 1.0}
        out = of.model(*of.inputs, **called)
    hidden = of.whole(out.hidden_states).transpose(0, 1)
    right = isologit.linear_logprobs(hidden, gathered(of.weight), labels, return_entropy=True)
    found = {"logprobs": different(out.log_probs[None], right.logprobs)}
    found["entropy"] = different(out.entropy[None], right.entropy)
    return found | beside_megatron(of, out.log_probs[None], labels)


def work(rank: int) -> dict[str, dict[str, float]]:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer import torch_norm

    parallel_state.initialize_model_parallel(RANKS, 1)
    (verl, _), (skyrl, _) = BARE["verl"], BARE["skyrl"]
    found = {}
    with (
        mock.patch.object(torch.cuda, "current_device", lambda: "cpu"),  # where its buffers go
        mock.patch.object(random.CudaRNGStatesTracker, "fork", lambda *_: contextlib.nullcontext()),
        # It refuses torch's norm of a part of a sequence, whose parameters' gradients it would have to add up.
        mock.patch.object(torch_norm.WrappedTorchNorm, "__new__", torch_layer_norm),
        foreign.imported(*verl, "verl.models.mcore", *skyrl, stand_ins=VERL),
    ):
        for tied in (True, False):
            for sequence in (True, False):
                name = f"{'tied' if tied else 'untied'}, {'sequence' if sequence else 'tensor'} parallel"
                for of in (of_megatron, of_exact, of_skyrl, of_nemo_rl, of_verl):
                    found[f"{of.__name__}, {name}"] = of(tied, sequence)
        found["of_its_own_test"] = of_its_own_test()
    return found


if __name__ == "__main__":
    torch.compiler.set_stance("force_eager")
    forked.say(work, RANKS)
