"""The calls of all ranks, and how autograd goes through them."""

import functools
import itertools
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isologit import _native, _of_logits_torch, _sample, _score
from isologit._inputs import HeadArgs
from isologit._sample import SampleArgs, Samples
from isologit._score import Results, ScoreArgs
from isologit._torch import backward, fingerprint
from isologit.parallel import _blocks, _elsewhere
from isologit.parallel._exchange import Exchange, bytes_of
from isologit.parallel._rows import Rows
from isologit.parallel._shard import Local, Shard, facts_of_blocks, place


def maker(arithmetic: str, kernel: str) -> str:
    """Of fast arithmetic its kernel, since others have other bits; the reference goes through other rounds, too."""
    chosen = [k.name for k in _native.kernels() if k.arithmetic == arithmetic and (k.name == kernel or k.chosen)]
    name = kernel or (chosen[0] if chosen else "")
    return name if arithmetic == "fast" or name == "reference" else "any exact one"


def checksums(**tensors: Tensor | None) -> dict[str, int | None]:
    """Of what must be equal on all ranks: whatever its layout, a pass over its bytes."""

    return {
        f"the checksum of {name}": None if tensor is None else zlib.crc32(bytes_of(tensor))
        for name, tensor in tensors.items()
    }


def facts_of_head(head: HeadArgs) -> dict[str, Any]:
    shared = ("softcap", "scale", "divide", "transform_order", "arithmetic")
    return {
        "the shape of hidden": list(head.hidden.shape),
        "the dtype of hidden": str(head.hidden.dtype),
        "hidden is on the CPU": head.hidden.is_cpu,
        "the kernel": maker(head.arithmetic, head.kernel),
        "has a bias": head.bias is not None,
        "the shape of lora a": None if head.lora_a is None else list(head.lora_a.shape),
        "the scale of lora": head.lora_scale,
        **{name: getattr(head, name) for name in shared},
        **checksums(hidden=head.hidden, temperature=head.temperatures, **{"lora a": head.lora_a}),
    }


class Blocks:
    """A call of this rank's rows: the arguments of each block's, told how many of its rows are ids; and how many rows
    are taken at a time where their tensors are not on the CPU."""

    def __init__(self, exchange: Exchange, everyone: list[dict[str, Any]], args: Any, own: Local) -> None:
        self.shards = place(exchange, everyone, args.head.vocab_size)
        heads = (
            args.head.with_weight(weight.detach(), detached(bias), shard.count, None, own.lora_of(block))
            for block, (weight, bias, shard) in enumerate(zip(own.weights, own.biases, self.shards, strict=True))
        )
        self.args = [args._replace(head=head) for head in heads]
        self.counts = [len(facts["own_rows"]) for facts in everyone]
        self.step = None if args.head.hidden.is_cpu else _elsewhere.rows_at_a_time(everyone)

    def run(self, exchange: Exchange, calls: list[_blocks.Call], bounds: list[int] | None = None) -> list[Any]:
        return _blocks.run(exchange, calls, self.shards, self.counts, bounds)

    def rows_of(self, bounds: list[int]) -> list[tuple[int, int]]:
        """Of each block of all ranks those of dhidden that it makes: the first one of rank r has [bounds[r], bounds[r +
        1])."""
        ranks = zip(self.counts, itertools.pairwise(bounds), strict=True)
        return [(last if block else first, last) for count, (first, last) in ranks for block in range(count)]


def detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def counts_of(found: list[Any]) -> Tensor:
    """A rank's report: that of its first block, with the logits of all that fell back."""
    counts = found[0].counts.clone()
    fallbacks = _native.Report._fields.index("logit_fallbacks")
    counts[fallbacks] = sum(int(one.counts[fallbacks]) for one in found)
    return counts


class Wants(NamedTuple):
    """Which gradients autograd asks for; of weights, biases and rows of b one answer a block."""

    hidden: bool
    weights: Sequence[bool]
    biases: Sequence[bool]
    lora_a: bool
    lora_bs: Sequence[bool]

    @classmethod
    def of(cls, needs: Sequence[bool]) -> "Wants":
        """Of hidden and then the leaves of a Local."""
        hidden, *own = needs
        blocks = len(own) // 3
        return cls(hidden, own[:blocks], own[blocks : 2 * blocks], own[2 * blocks], own[2 * blocks + 1 :])


class ScoreCall:
    """What score was given beside hidden and the leaves of a Local; args of all rows, the head's of the first block."""

    def __init__(
        self,
        exchange: Exchange,
        args: ScoreArgs,
        rows: Rows,
        own: Local,
        gradients: str,
        buffers: list[Tensor | None],
        differentiable: bool,
    ) -> None:
        _native.arithmetic_code(gradients, "gradients")
        head = args.head
        everyone = exchange.agree(
            **facts_of_blocks(own, head.vocab_size),
            **facts_of_head(head),
            **checksums(**args.support._asdict(), token_ids=args.token_ids),
            outputs=list(args.outputs),
            top_k=args.top_k,
            ignore_index=args.ignore_index,
            gradients=gradients,
            **{"needs gradients": differentiable},
        )
        args = args._replace(summaries=differentiable)
        if differentiable and not head.hidden.is_cpu:
            args = _elsewhere.with_gradients(args)
        self.blocks = Blocks(exchange, everyone, args, own)
        self.exchange, self.rows = exchange, rows
        self.gradients, self.buffers = gradients, buffers
        self.results: list[Results] = []

    def run(self) -> Results:
        """Of all rows; each block keeps its own for backward, where its operands' fingerprint is."""
        args, step = self.blocks.args, self.blocks.step
        run = _score.run if step is None else functools.partial(_elsewhere.score, step)
        self.results = self.blocks.run(self.exchange, [functools.partial(run, one) for one in args])
        for one, results in zip(args, self.results, strict=True):
            if one.summaries:
                results.summaries[-1] = fingerprint.fingerprint(one.head, one.support, one.token_ids)
        # Apart from those kept: outputs would refer to themselves.
        return Results(*(result.clone() for result in self.results[0]))

    def backward(self, upstream: dict[str, Tensor | None], wants: Wants) -> tuple[Tensor | None, ...]:
        """dhidden of this rank's rows, and the gradients of the leaves; None of a weight that has a buffer."""
        device = self.blocks.args[0].head.hidden.device
        with Exchange(f"{self.exchange.what}, backward", self.exchange.group, device) as exchange:
            upstream = self._agreed(exchange, upstream, wants)
            bounds = self.rows.bounds(len(self.blocks.args[0].head.hidden), exchange.size)
            calls = [
                functools.partial(self._backward, block, upstream, wants, self.blocks.rows_of(bounds))
                for block in range(len(self.blocks.args))
            ]
            found = self.blocks.run(exchange, calls, bounds)
            dhidden = found[0][0]
            if wants.hidden:
                dhidden = self._of_this_rank(exchange, dhidden, bounds)
        dweights = [dweight[0] if dweight else None for _, *dweight, _, _, _ in found]
        dbiases, dlora_as, dlora_bs = ([one[place] for one in found] for place in (-3, -2, -1))
        return dhidden, *dweights, *dbiases, dlora_as[0], *dlora_bs  # all blocks have made the same dlora_a

    def _of_this_rank(self, exchange: Exchange, dhidden: Tensor, bounds: list[int]) -> Tensor:
        """Each rank made a part: its own rows, or one that all then have."""
        own = dhidden[bounds[exchange.rank] : bounds[exchange.rank + 1]]
        if self.rows.counts is not None or exchange.size == 1:
            return own
        return exchange.tensors(own, [last - first for first, last in zip(bounds, bounds[1:], strict=False)])

    def _backward(
        self,
        block: int,
        upstream: dict[str, Tensor | None],
        wants: Wants,
        rows_of: list[tuple[int, int]],
        peers: _native.PeersCalls,
    ) -> tuple[Tensor, ...]:
        args, results, buffer = self.blocks.args[block], self.results[block], self.buffers[block]
        dweight = wants.weights[block]
        wanted = backward.Wanted(
            self.gradients,
            wants.hidden,
            dweight if buffer is None or not dweight else buffer,
            wants.biases[block],
            wants.lora_a,
            wants.lora_bs[block],
        )
        made = (args.token_ids, results.top_k_ids, results.top_k_logprobs, results.summaries, results.counts)
        by_name = (upstream[name] for name in backward.DIFFERENTIABLE)
        flat = (*args.head, *args.support, *made, args.ignore_index, *by_name, *wanted)
        if self.blocks.step is None:
            return backward.run_score(*flat, peers=peers)
        return _elsewhere.score_backward(flat, results.argmax, rows_of, peers)

    def _agreed(self, exchange: Exchange, upstream: dict[str, Tensor | None], wants: Wants) -> dict[str, Tensor | None]:
        """The upstream of all rows."""
        asked = {"wants dhidden": wants.hidden, "wants dlora_a": wants.lora_a}
        present = {name: value is not None for name, value in upstream.items()}
        if self.rows.counts is None:
            named = {f"d_{name}": value for name, value in upstream.items() if value is not None}
            exchange.agree(**asked, upstream=present, **checksums(**named))
            return upstream
        everyone = exchange.agree(**asked, own_upstream=present)
        whole: dict[str, Tensor | None] = dict.fromkeys(upstream)
        for name, value in upstream.items():
            if any(facts["own_upstream"][name] for facts in everyone):
                like = self.rows.own(getattr(self.results[0], name))
                own = torch.zeros_like(like) if value is None else value.to(torch.float32).reshape(like.shape)
                whole[name] = self.rows.gather(exchange, own)
        return whole


class Score(torch.autograd.Function):
    """The results of a ScoreCall, of this rank's rows; of hidden and the leaves of a Local."""

    @staticmethod
    def forward(ctx: Any, call: ScoreCall, hidden: Tensor, *leaves: Tensor | None) -> tuple[Tensor, ...]:
        results = call.run()
        ctx.save_for_backward(hidden, *leaves)
        ctx.set_materialize_grads(False)
        ctx.call = call
        outputs = tuple(call.rows.own(result) for result in results[:-2])
        constants = (
            value for name, value in zip(Results._fields, outputs, strict=False) if name not in backward.DIFFERENTIABLE
        )
        ctx.mark_non_differentiable(*constants)
        return outputs

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, *_ = ctx.saved_tensors  # an error where they were written to
        by_name = dict(zip(Results._fields, upstream, strict=False))
        wants = Wants.of(ctx.needs_input_grad[1:])
        dhidden, *found = ctx.call.backward({name: by_name[name] for name in backward.DIFFERENTIABLE}, wants)
        needed = zip(found, ctx.needs_input_grad[2:], strict=True)
        gradients = (value if needs else None for value, needs in needed)
        return None, dhidden.reshape(hidden.shape) if wants.hidden else None, *gradients


def sample(exchange: Exchange, args: SampleArgs, rows: Rows, own: Local) -> Samples:
    head = args.head
    everyone = exchange.agree(
        **facts_of_blocks(own, head.vocab_size),
        **facts_of_head(head),
        **checksums(**args.support._asdict()),
        **checksums(**{name: getattr(args, name) for name in args._fields[2:]}),
    )
    blocks = Blocks(exchange, everyone, args, own)
    run = _sample.run if blocks.step is None else functools.partial(_elsewhere.sample, blocks.step)
    found = blocks.run(exchange, [functools.partial(run, one) for one in blocks.args])
    return Samples(*map(rows.own, found[0][:-1]), counts_of(found))


class OfLogits(torch.autograd.Function):
    """ "logprobs" of ids [N, K], "entropy" or "lse" [N] of logits whose columns are this rank's ids."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        temperatures: Tensor,
        token_ids: Tensor | None,
        ignore_index: int,
        output: str,
        running: _native.Running,
        exchange: Exchange,
        shard: Shard,
        step: int,
    ) -> Tensor:
        ctx.save_for_backward(logits, temperatures, token_ids)
        ctx.rest = (ignore_index, output, running, exchange.what, exchange.group, shard, step)
        own = running._replace(peers=exchange.peers(shard.first_id, shard.vocab_size))
        operands = (logits, temperatures, token_ids, ignore_index, output, own)
        return _of_logits_torch.run_of_logits(*operands) if logits.is_cpu else _elsewhere.of_logits(step, *operands)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        logits, temperatures, token_ids = ctx.saved_tensors
        ignore_index, output, running, what, group, shard, step = ctx.rest
        with Exchange(f"{what}, backward", group, logits.device) as exchange:
            exchange.agree(**checksums(**{f"d_{output}": g}))
            own = running._replace(peers=exchange.peers(shard.first_id, shard.vocab_size))
            operands = (logits, temperatures, token_ids, ignore_index, output, own)
            if logits.is_cpu:
                dlogits = _of_logits_torch.run_of_logits_backward(g, *operands)
            else:
                dlogits = _elsewhere.of_logits(step, *operands, g=g)
        return dlogits.to(logits.dtype), *(None,) * 8
