"""The calls of all ranks, and how autograd goes through them."""

import zlib
from typing import Any

import torch
from torch import Tensor

from isologit import _native, _of_logits_torch, _sample, _score
from isologit._inputs import HeadArgs
from isologit._sample import SampleArgs, Samples
from isologit._score import Results, ScoreArgs
from isologit._torch import backward, fingerprint
from isologit.parallel._exchange import Exchange, bytes_of
from isologit.parallel._rows import Rows
from isologit.parallel._shard import Shard, place


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
        "the kernel": maker(head.arithmetic, head.kernel),
        "has a bias": head.bias is not None,
        **{name: getattr(head, name) for name in shared},
        **checksums(hidden=head.hidden, temperature=head.temperatures),
    }


def facts_of_shard(rows: int, first_id: int | None, vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "first_id is given": first_id is not None,
        "own_rows": rows,
        "own_first_id": first_id,
    }


def own_head(args: Any, shard: Shard) -> Any:
    """The arguments of a call, told how many of the rows are ids."""
    return args._replace(head=args.head._replace(vocab_size=shard.count))


class ScoreCall:
    """What score was given beside hidden, weight and bias; args of all rows, those of the head but for this rank's."""

    def __init__(
        self,
        exchange: Exchange,
        args: ScoreArgs,
        rows: Rows,
        first_id: int | None,
        gradients: str,
        dweight_accumulate: Tensor | None,
        differentiable: bool,
    ) -> None:
        _native.arithmetic_code(gradients, "gradients")
        head = args.head
        everyone = exchange.agree(
            **facts_of_shard(head.weight.shape[0], first_id, head.vocab_size),
            **facts_of_head(head),
            **checksums(**args.support._asdict(), token_ids=args.token_ids),
            outputs=list(args.outputs),
            top_k=args.top_k,
            ignore_index=args.ignore_index,
            gradients=gradients,
            **{"needs gradients": differentiable},
        )
        self.shard = place(exchange, everyone, head.vocab_size)
        self.args = own_head(args, self.shard)._replace(summaries=differentiable)
        self.exchange, self.rows = exchange, rows
        self.gradients, self.dweight_accumulate = gradients, dweight_accumulate
        self.results: Results | None = None

    def run(self) -> Results:
        results = _score.run(self.args, self.exchange.peers(self.shard.first_id, self.shard.vocab_size))
        if self.args.summaries:
            args = self.args
            results.summaries[-1] = fingerprint.fingerprint(args.head, args.support, args.token_ids)
        return results

    def backward(self, upstream: dict[str, Tensor | None], wanted: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
        """dhidden of this rank's rows, dweight (None where there is a buffer for it) and dbias."""
        with Exchange(f"{self.exchange.what}, backward", self.exchange.group) as exchange:
            upstream = self._agreed(exchange, upstream, wanted[0])
            buffer = self.dweight_accumulate if wanted[1] else None
            wants = (self.gradients, wanted[0], wanted[1] if buffer is None else buffer, wanted[2], False, False)
            args, results = self.args, self.results
            made = (args.token_ids, results.top_k_ids, results.top_k_logprobs, results.summaries, results.counts)
            found = backward.run_score(
                *args.head,
                *args.support,
                *made,
                args.ignore_index,
                *(upstream[name] for name in backward.DIFFERENTIABLE),
                *wants,
                peers=exchange.peers(self.shard.first_id, self.shard.vocab_size),
            )
        dhidden, *dweight, dbias, _, _ = found
        return self.rows.own(dhidden), dweight[0] if dweight else None, dbias

    def _agreed(
        self, exchange: Exchange, upstream: dict[str, Tensor | None], dhidden: bool
    ) -> dict[str, Tensor | None]:
        """The upstream of all rows."""
        present = {name: value is not None for name, value in upstream.items()}
        if self.rows.counts is None:
            named = {f"d_{name}": value for name, value in upstream.items() if value is not None}
            exchange.agree(**{"wants dhidden": dhidden, "upstream": present}, **checksums(**named))
            return upstream
        everyone = exchange.agree(**{"wants dhidden": dhidden, "own_upstream": present})
        whole: dict[str, Tensor | None] = dict.fromkeys(upstream)
        for name, value in upstream.items():
            if any(facts["own_upstream"][name] for facts in everyone):
                like = self.rows.own(getattr(self.results, name))
                own = torch.zeros_like(like) if value is None else value.to(torch.float32).reshape(like.shape)
                whole[name] = self.rows.gather(exchange, own)
        return whole


class Score(torch.autograd.Function):
    """The results of a ScoreCall, of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, call: ScoreCall) -> tuple[Tensor, ...]:
        results = call.run()
        call.results = Results(*(result.detach().clone() for result in results))  # outputs would refer to themselves
        ctx.save_for_backward(hidden, weight, bias)
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
        hidden, weight, bias = ctx.saved_tensors  # an error where they were written to
        by_name = dict(zip(Results._fields, upstream, strict=False))
        wanted = ctx.needs_input_grad[:3]
        found = ctx.call.backward({name: by_name[name] for name in backward.DIFFERENTIABLE}, wanted)
        dhidden, dweight, dbias = (value if wants else None for value, wants in zip(found, wanted, strict=True))
        return None if dhidden is None else dhidden.reshape(hidden.shape), dweight, dbias, None


def sample(exchange: Exchange, args: SampleArgs, rows: Rows, first_id: int | None) -> Samples:
    head = args.head
    everyone = exchange.agree(
        **facts_of_shard(head.weight.shape[0], first_id, head.vocab_size),
        **facts_of_head(head),
        **checksums(**args.support._asdict()),
        **checksums(**{name: getattr(args, name) for name in args._fields[2:]}),
    )
    shard = place(exchange, everyone, head.vocab_size)
    found = _sample.run(own_head(args, shard), exchange.peers(shard.first_id, shard.vocab_size))
    return Samples(*map(rows.own, found[:-1]), found.counts)


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
    ) -> Tensor:
        ctx.save_for_backward(logits, temperatures, token_ids)
        ctx.rest = (ignore_index, output, running, exchange.what, exchange.group, shard)
        own = running._replace(peers=exchange.peers(shard.first_id, shard.vocab_size))
        return _of_logits_torch.run_of_logits(logits, temperatures, token_ids, ignore_index, output, own)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        logits, temperatures, token_ids = ctx.saved_tensors
        ignore_index, output, running, what, group, shard = ctx.rest
        with Exchange(f"{what}, backward", group) as exchange:
            exchange.agree(**checksums(**{f"d_{output}": g}))
            own = running._replace(peers=exchange.peers(shard.first_id, shard.vocab_size))
            dlogits = _of_logits_torch.run_of_logits_backward(
                g, logits, temperatures, token_ids, ignore_index, output, own
            )
        return dlogits.to(logits.dtype), *(None,) * 7
