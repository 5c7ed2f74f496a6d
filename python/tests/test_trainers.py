"""What adapters of integrations do beyond the table of test_adapters.py: batches, options, models of the packages."""

import contextlib
import importlib
import types
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")
import foreign  # noqa: E402
from adapters import SKYRL, VOCAB, installed, package, recorded  # noqa: E402
from expected import round_once, same_bits  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from isologit import integrations  # noqa: E402

ROWS, SIZE, T = 8, 16, float(torch.tensor(0.7))


def head(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, SIZE, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, SIZE, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, VOCAB, (ROWS,), generator=generator)


def given_logits():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(ROWS, VOCAB, generator=generator).mul_(4).requires_grad_()


def assert_near(results, wanted, leaves, wide, largest, roundings, gradients=2.0**-14, module=None):
    """Within an ulp for each rounding; and the gradients under the same upstreams, some rows' 0, within `gradients` of
    the largest. module: whose own code makes wanted."""
    for got, want in zip(results, wanted, strict=True):
        assert got.dtype == torch.float32 and want.dtype == torch.float64 and want.abs().max() > 0.1
        room = (2 * roundings * (1 + largest)) * foreign.ulp(torch.tensor(largest)) + foreign.ulp(want)
        assert got.shape == want.shape and ((got.double() - want).abs() <= room).all()
    generator = torch.Generator().manual_seed(7)
    upstreams = [torch.randn(r.shape, generator=generator) for r in results]
    for upstream in upstreams:
        upstream.view(-1)[1::2] = 0
    got = torch.autograd.grad(results, leaves, upstreams, retain_graph=True)
    with contextlib.nullcontext() if module is None else foreign.in_f64(module):
        upstreams = [upstream.double() for upstream in upstreams]
        exact = torch.autograd.grad(wanted, wide, upstreams, retain_graph=True)
    for g, e in zip(got, exact, strict=True):
        assert e.abs().max() > 0.01 and (g.double() - e).abs().max() <= gradients * e.abs().max()


def test_verl(group):
    with package("verl"):
        module = importlib.import_module("verl.utils.experimental.torch_functional")
        kernel = importlib.import_module("verl.utils.kernel.linear_cross_entropy")
        hidden, weight, ids = head()
        formers = module.FusedLinearForPPO.forward, kernel.linear_cross_entropy
        with installed(integrations.verl):
            results = module.FusedLinearForPPO(impl_backend="liger").forward(
                hidden_states=hidden.reshape(2, 4, SIZE),
                vocab_weights=weight,
                input_ids=ids.reshape(2, 4).int(),
                temperature=T,
            )
            of_kernel = kernel.linear_cross_entropy(hidden[:, None], weight, ids[None], T, "none", group)
            with pytest.raises(NotImplementedError, match="reduction is 'mean'"):
                kernel.linear_cross_entropy(hidden, weight, ids, T, "mean")
        assert formers == (module.FusedLinearForPPO.forward, kernel.linear_cross_entropy)
        for got, same in zip(results, of_kernel, strict=True):
            assert got.shape == (2, 4) and torch.equal(got.reshape(-1), same)


def test_verls_patched_models():
    transformers = pytest.importorskip("transformers")
    with package("verl"):
        patch = importlib.import_module("verl.models.transformers.monkey_patch")
        model = transformers.AutoModelForCausalLM.from_pretrained("examples/tiny-qwen3", dtype=torch.float32)
        former = type(model).forward
        ids = torch.tensor([[5, 80, 300, 7]])
        logits = model(input_ids=ids).logits
        wanted = torch.log_softmax(logits.double() / T, -1).gather(-1, ids.roll(-1)[..., None])[..., 0]
        try:
            for backend in ("torch", "triton"):
                patch.patch_forward_with_backends(model, use_fused_kernels=True, fused_kernels_backend=backend)
                with installed(integrations.verl):
                    out = model(input_ids=ids, temperature=T, return_dict=True)
                assert (out.log_probs.reshape(1, 4).double() - wanted).abs().max() < 2e-5
                assert out.entropy.numel() == 4 and out.entropy.requires_grad
        finally:
            type(model).forward = former


def test_skyrl(group):
    with package("skyrl"):
        module = importlib.import_module(SKYRL)
        hidden, weight, ids = head()
        wide = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]

        def call(hidden, weight, inference_only=False):
            args = (hidden.reshape(2, 4, SIZE), weight, ids.reshape(2, 4), 0, VOCAB, group)
            return module.from_parallel_hidden_to_logprobs(*args, inference_only, chunk_size=2)

        with foreign.in_f64(module):
            wanted = call(*wide)
        with installed(integrations.skyrl):
            got = call(hidden, weight)
            assert not call(hidden, weight, True).requires_grad
        assert got.shape == (2, 3)
        assert_near([got], [wanted], [hidden, weight], wide, 20.0, 1, module=module)


@pytest.mark.parametrize("tied", [True, False])
def test_megatron_core(tied, group, monkeypatch):
    pytest.importorskip("triton")
    with package("megatron"):
        monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")  # where its buffers go
        from megatron.core import parallel_state
        from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
        from megatron.core.models.gpt.gpt_model import GPTModel
        from megatron.core.tensor_parallel import random
        from megatron.core.transformer import TransformerConfig

        monkeypatch.setattr(random.CudaRNGStatesTracker, "fork", lambda *_: contextlib.nullcontext())
        parallel_state.initialize_model_parallel(1, 1)
        torch.manual_seed(0)
        sizes = {"num_layers": 1, "hidden_size": SIZE, "num_attention_heads": 2}
        config = TransformerConfig(
            **sizes, use_cpu_initialization=True, hidden_dropout=0.0, attention_dropout=0.0, init_method_std=0.5
        )
        model = GPTModel(config, get_gpt_layer_local_spec(), VOCAB, 16, share_embeddings_and_output_weights=tied)
        ids = torch.arange(10).reshape(2, 5)
        inputs = (ids, torch.arange(5).expand(2, 5), torch.ones(1, 1, 5, 5, dtype=torch.bool).triu(1))
        labels = ids + 1
        logits = model(*inputs)
        options = {"output_processor": integrations.megatron.output_processor, "labels": labels}
        scores = model(*inputs, **options, output_processor_context={"temperature": T, "outputs": ("logprobs", "lse")})
        p = torch.log_softmax(logits.double() / T, -1)
        wanted = p.gather(-1, labels[..., None])[..., 0]
        assert scores.logprobs.shape == (2, 5) and scores.entropy is None
        # Megatron's own logits are sums in f32.
        assert (scores.logprobs - wanted).abs().max() < 2e-5
        assert (scores.lse - torch.logsumexp(logits.double() / T, -1)).abs().max() < 2e-5
        both = model(*inputs, **options)
        p = torch.log_softmax(logits.double(), -1)
        assert (both.entropy + (p.exp() * p).sum(-1)).abs().max() < 2e-5
        weight = model.shared_embedding_or_output_weight() if tied else model.output_layer.weight
        (grad,) = torch.autograd.grad(both.logprobs.sum(), weight, retain_graph=True)
        (stock,) = torch.autograd.grad(p.gather(-1, labels[..., None]).sum(), weight)
        assert stock.abs().max() > 0.1 and (grad - stock).abs().max() < 1e-4 * stock.abs().max()
        parallel_state.destroy_model_parallel()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_liger(reduction):
    pytest.importorskip("triton")
    with package("liger"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss as Loss
        from liger_kernel.transformers import functional

        hidden, weight, target = head()
        bias = torch.linspace(-1, 1, VOCAB).requires_grad_()
        target[3] = target[5] = -100
        options = {"reduction": reduction, "label_smoothing": 0.1, "lse_square_scale": 1e-2}
        wide = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight, bias)]
        z = F.linear(*wide)
        z_loss = 1e-2 * z.logsumexp(-1).square() * (target != -100)
        each = F.cross_entropy(z, target, reduction="none", label_smoothing=0.1) + z_loss
        wanted = {"none": each, "sum": each.sum(), "mean": each.sum() / (ROWS - 2)}[reduction]
        with installed(integrations.liger):
            got = Loss(**options, accum_dtype=torch.float32)(weight, hidden, target, bias)
            of_function = functional.liger_fused_linear_cross_entropy(hidden, weight, target, bias, **options)
            for name in integrations.liger._NOT_MADE[1:]:
                with pytest.raises(NotImplementedError, match=f"{name} is given"):
                    Loss(**{name: True})(weight, hidden, target)
        assert torch.equal(got, of_function)
        assert_near([got.reshape(-1)], [wanted.reshape(-1)], [hidden, weight, bias], wide, 20.0, 1)


@pytest.mark.parametrize("given", [int, torch.tensor])
def test_the_loss_of_ligers_models_is_rounded_once(given):
    """Of logits of few bits, whose logprobs in f64 tell those in f32."""
    with package("liger"):
        module = importlib.import_module("liger_kernel.transformers.model.loss_utils")
        generator = torch.Generator().manual_seed(5)
        hidden, weight = (torch.randint(-8, 8, (n, SIZE), generator=generator) / 8.0 for n in (24, VOCAB))
        hidden, labels = hidden.reshape(2, 12, SIZE), torch.randint(0, VOCAB, (2, 12), generator=generator)
        labels[0, 2] = -100
        z = F.linear(hidden.double(), weight.double())[:, :-1].flatten(0, 1)
        each = F.cross_entropy(z, labels[:, 1:].flatten(), reduction="none").float()
        total = sum(map(Fraction, each.tolist()))
        twice = (n for n in range(2, 99) if round_once(total / n) != round_once(Fraction(round_once(total)) / n))
        count = next(twice)
        with installed(integrations.liger):
            over_all = module.LigerForCausalLMLoss(hidden, weight, labels, SIZE, given(count))
            over_own = module.LigerForCausalLMLoss(hidden, weight, labels, SIZE)
            with pytest.raises(NotImplementedError, match="return_token_accuracy is given"):
                module.LigerForCausalLMLoss(hidden, weight, labels, SIZE, return_token_accuracy=True)
    assert over_all.item() == round_once(total / count) and over_own.item() == round_once(total / 21)


def formula(z, ids):
    p = torch.log_softmax(z, -1)
    return p.gather(-1, ids[:, None])[:, 0], -(p.exp() * p).sum(-1)


def test_masks_and_options_of_slime_and_miles():
    z, ids = given_logits(), torch.arange(ROWS)
    keep = torch.rand(ROWS, VOCAB, generator=torch.Generator().manual_seed(3)) < 0.5
    keep[0, 0] = False  # the token itself, which stays nevertheless
    masked = keep.scatter(1, ids[:, None], True)
    wanted = formula(z.detach().double().masked_fill(~masked, -torch.inf), ids)[0]
    got, entropy = integrations.slime.calculate_log_probs_and_entropy(z, ids, None, True, -1, keep, False)
    assert got.shape == (ROWS, 1) and (got[:, 0] - wanted).abs().max() < 1e-6 and not entropy.requires_grad
    got, entropy = integrations.miles.calculate_log_probs_and_entropy(z, ids, None, True, False, -1, True, VOCAB - 3)
    wanted = formula(z.detach().double()[:, : VOCAB - 3], ids)
    assert got.shape == (ROWS,) and not entropy.requires_grad and (got - wanted[0]).abs().max() < 1e-6
    assert (entropy - wanted[1]).abs().max() < 1e-6
    for adapter in (integrations.slime, integrations.miles):
        assert adapter.calculate_log_probs_and_entropy(z, ids, None)[1] is None


def test_nemo_rl(group):
    hidden, weight, ids = head()
    wide = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]
    with recorded("nemo_rl"), installed(integrations.nemo_rl):
        function = importlib.import_module("nemo_rl.distributed.model_utils").from_parallel_hidden_states_to_logprobs

        def call(inference_only):
            args = (hidden.reshape(4, 2, SIZE), weight, True, ids.reshape(2, 4), 0, VOCAB, group)
            return function(*args, inference_only=inference_only, chunk_size=3)

        got = call(False)
        assert not call(True).requires_grad
    z = F.linear(wide[0].reshape(4, 2, SIZE).transpose(0, 1)[:, :-1], wide[1])
    wanted = torch.log_softmax(z, -1).gather(-1, ids.reshape(2, 4)[:, 1:, None])[..., 0]
    assert_near([got], [wanted], [hidden, weight], wide, 20.0, 1)


class Prime(nn.Module):
    def __init__(self, weight, **config):
        super().__init__()
        self.lm_head = nn.Linear(SIZE, VOCAB, bias=False)
        self.lm_head.weight = nn.Parameter(weight.detach())
        self.config = types.SimpleNamespace(vocab_size=VOCAB, model_type="gemma2", **config)
        self.config.get_text_config = lambda: self.config


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_prime_rl(softcap):
    hidden, weight, ids = head()
    hidden = hidden.detach().reshape(2, 4, SIZE).requires_grad_()
    model = Prime(weight, final_logit_softcapping=softcap)
    temperature = torch.linspace(0.5, 2, ROWS).reshape(2, 4)
    wide = [hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()]
    z = F.linear(*wide)
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    p = torch.log_softmax(z / temperature.double()[..., None], -1)
    wanted = [p.gather(-1, ids.reshape(2, 4, 1))[..., 0], -(p.exp() * p).sum(-1)]
    patched = []
    with recorded("prime_rl"):
        module = importlib.import_module("prime_rl.trainer.models.layers.lm_head")
        module._patch_model_forward = lambda model: patched.append(model)
        with installed(integrations.prime_rl):
            module.inject_prime_lm_head(model, 512)
    assert patched == [model]
    out = model.lm_head(hidden, ids.reshape(2, 4), temperature=temperature)
    assert sorted(out) == ["entropy", "logprobs"]
    assert_near(list(out.values()), wanted, [hidden, model.lm_head.weight], wide, 40.0, 3, 2.0**-13)
    support = torch.arange(6).expand(2, 4, 6)
    given = model.lm_head(hidden, ids.reshape(2, 4), temperature, support_token_ids=support)
    top = model.lm_head(hidden, ids.reshape(2, 4), temperature, support_topk=3)
    assert torch.equal(top["topk_token_ids"], p.topk(3).indices)
    for found, right in ((given, p[..., :6]), (top, p.topk(3).values)):
        assert same_bits(found["logprobs"], out["logprobs"]) and same_bits(found["entropy"], out["entropy"])
        near = (hidden, model.lm_head.weight), wide, 40.0, 3, 2.0**-13
        assert_near([found["support_logprobs"], found["entropy"]], [right, wanted[1]], *near)
    with pytest.raises(ValueError, match="expected one of them"):
        model.lm_head(hidden, ids.reshape(2, 4), temperature, support_topk=3, support_token_ids=support)


def test_prime_rls_logits_are_capped_and_not_divided():
    hidden, weight, ids = head()
    model = Prime(weight, final_logit_softcapping=3.0)
    with recorded("prime_rl"), installed(integrations.prime_rl):
        module = importlib.import_module("prime_rl.trainer.models.layers.lm_head")
        module._patch_model_forward = lambda model: None
        module.inject_prime_lm_head(model)
    out = model.lm_head(hidden, ids, temperature=torch.full((ROWS,), 0.5))
    assert sorted(out) == ["logits"]
    wanted = 3.0 * torch.tanh(F.linear(hidden.double(), weight.double()) / 3.0)
    assert (out["logits"] - wanted).abs().max() < 1e-6
    model.lm_head = nn.Linear(SIZE, VOCAB)
    with pytest.raises(NotImplementedError, match="expected an nn.Linear without a bias"):
        integrations.prime_rl.inject_prime_lm_head(model)
