"""Gradients of CUDA tensors, by what stands in for the CUDA library."""

import pytest

torch = pytest.importorskip("torch")

import cuda_stand_ins  # noqa: E402
from cuda_stand_ins import score_args, score_args_on_cpu  # noqa: E402

import isologit  # noqa: E402
from isologit._torch import cuda  # noqa: E402
from isologit.torch_backend import backward as torch_backend_backward  # noqa: E402

library = cuda_stand_ins.library


class Gradients:
    """In the place of the library: gradients of what it is given by plain torch in f64."""

    status = (0, 0)

    def backward(self, head, token_ids, *, summaries, ignore_index, accumulate, mask=None, **named):
        assert ignore_index == -1 and head.softcap == 3.0 and not head.scale_first
        self.summaries, self.accumulate, self.mask = summaries, accumulate, mask
        lists = {name: lists_of(*named.pop(name)) for name in ("kept", "banned") if name in named}
        stays = support_of(mask, **lists)
        wanted = {name: named.pop(name) for name in ("dhidden", "dweight", "dbias") if name in named}
        vocab = head.vocab_size
        hidden, weight, bias = (x.double() for x in (head.hidden, head.weight, head.bias))
        tanh = torch.tanh((hidden @ weight[:vocab].T + bias[:vocab]) / head.softcap)
        z = head.softcap * tanh / head.temperatures[:, None].double()
        logprobs = torch.log_softmax(z.masked_fill(~stays, -torch.inf), -1).masked_fill(~stays, 0.0)
        p = logprobs.exp() * stays
        a = torch.zeros_like(p).scatter_add_(1, token_ids, named["d_logprobs"].double())
        dz = a * stays + p * (named["d_lse"].double()[:, None] - a.sum(1, keepdim=True))
        if "d_mean_logits" in named:
            dz += named["d_mean_logits"].double()[:, None] * stays / stays.sum(1, keepdim=True)
        if "d_entropy" in named:
            entropy = -(p * logprobs).sum(1, keepdim=True)
            dz -= named["d_entropy"].double()[:, None] * p * (logprobs + entropy)
        dz = torch.nn.functional.pad(dz * (1 - tanh * tanh) / head.temperatures[:, None].double(), (0, 2))
        found = (dz @ weight, dz.T @ hidden, dz.sum(0))
        for (name, to), gradient in zip(wanted.items(), found, strict=True):
            to.copy_(gradient.to(to.dtype) + (to if accumulate and name == "dweight" else 0))
        return torch.tensor(self.status)


def lists_of(offsets, ids):
    return [ids[first:last].tolist() for first, last in zip(offsets, offsets[1:], strict=False)]


def support_of(mask=None, kept=None, banned=None):
    """bool [7, 9]"""
    stays = torch.ones(7, 9, dtype=torch.bool) if mask is None else mask.expand(7, 9).clone()
    for row in range(7):
        if kept is not None:
            stays[row] &= torch.tensor([v in kept[row] for v in range(9)])
        if banned is not None:
            stays[row, banned[row]] = False
    return stays


SUPPORTS = {
    "everything": {},
    "mask": {"mask": torch.arange(9) % 4 != 1},
    "masks": {"mask": (torch.arange(63) * 5 % 7 > 2).view(7, 9)},
    "kept": {"kept": [[2, 5, 8], [1], [3, 4], [0, 1, 2, 3], list(range(9)), [7, 8], [6]]},
    "banned": {"banned": [[2, 5, 8], [], [3, 4], [0, 1, 2, 3], [8], [7, 8], [6]]},
}


def gradients_of(kernel, entropy=True, buffer=None, support=None):
    generator = torch.Generator().manual_seed(1)
    sizes = ((7, 8), (11, 8), (11,))
    leaves = [torch.randn(size, generator=generator).requires_grad_() for size in sizes]
    ids = torch.randint(0, 9, (7,), generator=generator)
    ids[2] = -100
    scores = isologit.score(
        *leaves[:2],
        ids,
        bias=leaves[2],
        softcap=3.0,
        temperature=0.5,
        vocab_size=9,
        outputs=["logprobs", "lse", *(["entropy"] if entropy else ["mean_logits"])],
        kernel=kernel,
        **(support or {}),
        dweight_accumulate=buffer,
    )
    up = torch.linspace(-1, 2, 7)
    loss = (up * scores.logprobs).sum() + (up * up * scores.lse).sum()
    (loss + (scores.entropy if entropy else scores.mean_logits).sum()).backward()
    return [buffer if x.grad is None else x.grad for x in leaves]


@pytest.fixture
def gradients(monkeypatch):
    """As if tensors on the CPU were the library's."""
    stub = Gradients()
    monkeypatch.setattr(cuda, "library", lambda: stub)
    monkeypatch.setattr(cuda, "makes_score", lambda args: False)
    monkeypatch.setattr(cuda, "makes_backward", lambda *_: True)
    return stub


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize(("accumulate", "support"), [(True, "everything"), *((False, name) for name in SUPPORTS)])
def test_gradients_go_to_the_library_with_all_they_need(gradients, entropy, accumulate, support):
    buffers = [torch.ones(11, 8) if accumulate else None for _ in range(2)]
    found = gradients_of("torch", entropy, buffers[0], SUPPORTS[support])
    right = gradients_of("", entropy, buffers[1], SUPPORTS[support])  # the library's of the CPU
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert gradients.accumulate == accumulate and (gradients.summaries is None) == entropy
    assert entropy or gradients.summaries.shape == (7, 5)
    assert (gradients.mask is None) == ("mask" not in support)
    untouched = 1.0 if accumulate else 0.0
    assert found[1][9:].eq(untouched).all() and found[2][9:].eq(0).all()  # rows of padding


def test_gradients_that_the_library_does_not_prove(gradients):
    gradients.status = (1, 0)
    right = gradients_of("")
    for one, other in zip(gradients_of("torch"), right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)  # the core's
    buffer = torch.ones(11, 8)
    with pytest.raises(RuntimeError, match="does not prove"):
        gradients_of("torch", buffer=buffer)
    assert buffer.isnan().all()


def test_gradients_that_it_does_not_make(library):
    args = score_args()
    ids = torch.empty(6, 4, dtype=torch.int64, device="cuda")
    assert cuda.makes_backward(args.head, ids)
    assert not cuda.makes_backward(args.head._replace(kernel="torch"), ids)
    assert cuda.makes_backward(args.head._replace(arithmetic="fast"), ids)
    assert not cuda.makes_backward(args.head, torch.empty(6, 4097, dtype=torch.int64, device="cuda"))


def test_fast_arithmetic_has_fast_gradients_alone(gradients, monkeypatch):
    monkeypatch.setattr(cuda, "makes_backward", lambda *_: False)
    args = score_args_on_cpu(arithmetic="fast")
    wanted = [None, torch.empty(0), torch.empty(0), torch.empty(0), torch.zeros(8, dtype=torch.int64), -100]
    for how in ("fast", "exact"):
        flat = (
            *args.head,
            *args.support,
            *wanted,
            None,
            None,
            torch.ones(2),
            None,
            None,
            how,
            True,
            True,
            False,
            False,
            False,
        )
        with pytest.raises(NotImplementedError, match=f"gradients='{how}' of fast logits"):
            torch_backend_backward.score_backward(*flat)
