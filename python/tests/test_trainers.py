"""The adapters of integrations: each in the place of the package's own function, against that function in f64.

What cannot be installed here is a stand-in with the signature that was read from the source: integrations/_table.py.
"""

import contextlib
import importlib
import inspect
import pathlib
import subprocess
import sys
import types

import pytest

torch = pytest.importorskip("torch")
import foreign  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from isologit import integrations  # noqa: E402
from isologit.integrations import _adapter, _table  # noqa: E402

ROWS, VOCAB, SIZE, T = 8, 40, 16, float(torch.tensor(0.7))
SKYRL = "skyrl.backends.skyrl_train.distributed.megatron.model_utils"
# How the files of each package are had without what they do not need here.
BARE = {
    "verl": (
        ("verl", "verl.utils", "verl.models")
        + ("verl.utils.experimental", "verl.utils.kernel", "verl.models.transformers"),
        {},
    ),
    "openrlhf": (("openrlhf", "openrlhf.models"), {"deepspeed": {}}),
    "areal": (
        ("areal", "areal.utils", "areal.utils.functional"),
        {"areal.infra": {}, "areal.infra.platforms": {"is_npu_available": False}},
    ),
    "skyrl": (tuple(SKYRL.rsplit(".", n)[0] for n in range(5, 0, -1)), {}),
    "megatron": ((), {}),
    "liger": ((), {}),
}


@contextlib.contextmanager
def package(key):
    """The real one if it is installed; a skip if it is not."""
    found = _table.PACKAGES[key]
    seen = _adapter.version(found)
    if seen is None:
        pytest.skip(f"{found.distribution} is not installed")
    bare, stand_ins = BARE[key]
    with foreign.imported(*bare, stand_ins=stand_ins), torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


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
    got = torch.autograd.grad(results, leaves, upstreams)
    with contextlib.nullcontext() if module is None else foreign.in_f64(module):
        exact = torch.autograd.grad(wanted, wide, [upstream.double() for upstream in upstreams])
    for g, e in zip(got, exact, strict=True):
        assert e.abs().max() > 0.01 and (g.double() - e).abs().max() <= gradients * e.abs().max()


@contextlib.contextmanager
def installed(module):
    """In force, called, and out again."""
    calls = module.adapter.calls
    module.install()
    assert module.in_force()
    try:
        yield
    finally:
        module.uninstall()
    assert module.adapter.calls > calls and not module.in_force()


@pytest.mark.parametrize("key", BARE)
def test_signatures_and_version_are_those_of_the_table(key):
    with package(key):
        _adapter.check(key)
        assert _adapter.version(_table.PACKAGES[key]) == _table.PACKAGES[key].tested


def test_what_moved_is_named(monkeypatch):
    with package("openrlhf"):
        table = _table.PACKAGES["openrlhf"]
        name = "openrlhf.models.utils:compute_entropy"
        for names, message in (
            ({name: "(logits, mask)"}, r"openrlhf .*: .*:compute_entropy takes \(logits\); expected \(logits, mask\)"),
            ({"openrlhf.models.utils:gone": "()"}, "openrlhf.models.utils:gone has moved: .*made for 0.11.2"),
        ):
            monkeypatch.setitem(_table.PACKAGES, "openrlhf", table._replace(names=names))
            with pytest.raises(NotImplementedError, match=message):
                integrations.openrlhf.install()
        monkeypatch.setitem(_table.PACKAGES, "openrlhf", table._replace(names={"openrlhf.nowhere:gone": "()"}))
        with pytest.raises(ImportError, match="openrlhf.nowhere:gone cannot be imported"):
            integrations.openrlhf.install()


def test_openrlhf():
    with package("openrlhf"):
        utils = importlib.import_module("openrlhf.models.utils")
        z, ids = given_logits(), torch.arange(ROWS)
        wide = z.detach().double().requires_grad_()
        with foreign.in_f64(utils):
            wanted = [utils.log_probs_from_logits(wide / T, ids), utils.compute_entropy(wide)]
        importer = types.ModuleType("openrlhf.importer")
        importer.compute = utils.compute_entropy
        sys.modules["openrlhf.importer"] = importer
        former = utils.compute_entropy
        with installed(integrations.openrlhf):
            assert importer.compute is utils.compute_entropy is not former
            results = [utils.log_probs_from_logits(z, ids, T), importer.compute(z)]
        assert importer.compute is utils.compute_entropy is former
        assert_near(results, wanted, [z], [wide], 16 / T, 1, 2.0**-20)
        with installed(integrations.openrlhf):
            ids[1], ids[2] = -100, VOCAB
            with pytest.raises(ValueError, match="40 is outside the vocabulary"):
                utils.log_probs_from_logits(z, ids)
            ids[2] = 0
            assert utils.log_probs_from_logits(z, ids)[1] == 0
            assert utils.log_probs_from_logits(z[:0], ids[:0]).shape == (0,)
            strided = torch.stack([z.detach(), z.detach()], -1)[..., 1]
            assert torch.equal(utils.compute_entropy(strided), utils.compute_entropy(z.detach()))


def test_areal(group):
    with package("areal"):
        module = importlib.import_module("areal.utils.functional.vocab_parallel")
        z, ids = given_logits(), torch.arange(ROWS)
        wide = z.detach().double().requires_grad_()
        with foreign.in_f64(module):
            wanted = [*module.gather_logprobs_entropy(wide, ids, T), module.gather_logprobs(wide, ids, T)]
        with installed(integrations.areal):
            results = [*module.gather_logprobs_entropy(z, ids, T, group), module.gather_logprobs(z, ids, T)]
        assert_near(results, wanted, [z], [wide], 16 / T, 1, 2.0**-20)


def test_a_split_vocabulary_is_refused(group, monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 2)
    z, ids = given_logits(), torch.arange(ROWS)
    hidden, weight, _ = head()
    for call in (
        lambda: integrations.slime.calculate_log_probs_and_entropy(z, ids, group, log_prob_keep_mask=z > 0),
        lambda: integrations.verl.linear_cross_entropy(hidden, weight, ids, 1.0, "none", group),
        lambda: integrations.skyrl.fused_lm_head_logprob_apply("torch", hidden, weight, ids, 0, VOCAB, 4, group, False),
        lambda: integrations.nemo_rl.from_parallel_hidden_states_to_logprobs(
            hidden[:, None], weight, True, ids[None], 0, VOCAB, group
        ),
    ):
        with pytest.raises(NotImplementedError, match="group has 2 ranks; expected one"):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_verl(dtype, group):
    with package("verl"):
        module = importlib.import_module("verl.utils.experimental.torch_functional")
        kernel = importlib.import_module("verl.utils.kernel.linear_cross_entropy")
        hidden, weight, ids = head(dtype)
        wide = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]
        with foreign.in_f64(module):
            wanted = module.FusedLinearForPPO()(*wide, ids, T)
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
            assert kernel.linear_cross_entropy(hidden[:0], weight, ids[:0], T)[0].shape == (0,)
        assert formers == (module.FusedLinearForPPO.forward, kernel.linear_cross_entropy)
        for got, same in zip(results, of_kernel, strict=True):
            assert got.shape == (2, 4) and torch.equal(got.reshape(-1), same)
        flat = [got.reshape(-1) for got in results]
        bound = 2.0**-14 if dtype == torch.float32 else 2.0**-8  # of gradients, which are rounded to bf16
        assert_near(flat, wanted, [hidden, weight], wide, 20 / T, 2, bound)


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


@contextlib.contextmanager
def recorded(key):
    """Modules that hold functions with the signatures of the table, which fail when they are called."""
    names = _table.PACKAGES[key].names
    modules: dict[str, dict] = {}
    for where, signature in names.items():
        module, _, name = where.partition(":")
        for end in range(1, module.count(".") + 1):
            modules.setdefault(".".join(module.split(".")[:end]), {})
        namespace: dict = {}
        exec(f"def {name}{signature}: raise AssertionError('the stand-in was called')", namespace)
        modules.setdefault(module, {})[name] = namespace[name]
    with foreign.imported(stand_ins=modules):
        yield


def test_the_page_has_the_table():
    assert f"\n{_table.markdown()}\n" in pathlib.Path("docs/integrations/index.md").read_text()


def test_the_engines_are_tested_in_the_version_of_the_table():
    pinned = pathlib.Path("scripts/test_engines").read_text()
    for key in ("vllm", "sglang", "trl"):
        package = _table.PACKAGES[key]
        assert f"{package.distribution}=={package.tested}\n" in pinned
    assert f'"{_table.LLAMA_CPP.distribution}=={_table.LLAMA_CPP.tested}"' in pathlib.Path("scripts/test").read_text()


def rows_of_status():
    return {row.name: row for row in integrations.status()}


def test_status():
    assert list(rows_of_status()) == list(_table.PACKAGES)
    row = rows_of_status()["roll"]
    assert not row.in_force and row.why_not == "alibaba/ROLL is not installed" and row.version == ""
    with recorded("roll"):
        assert rows_of_status()["roll"].why_not == "not asked for in this process: integrations.roll.install()"
        integrations.roll.install()
        assert rows_of_status()["roll"][-2:] == (True, "")
        integrations.roll.uninstall()
        assert not rows_of_status()["roll"].in_force


def test_the_command_tells_the_status():
    def told(*arguments):
        command = [sys.executable, "-m", "isologit", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    lines = told("integrations").splitlines()
    assert len(lines) == 1 + len(_table.PACKAGES) and lines[0].split()[:2] == ["package", "installed"]
    for line, row in zip(lines[1:], integrations.status(), strict=True):
        assert line.split()[:2] == [row.name, row.version or "-"] and " no  " in line
    assert told("--version").startswith("isologit ")


RECORDED = [key for key, package in _table.PACKAGES.items() if not package.on_pypi]


@pytest.mark.parametrize("key", RECORDED)
def test_recorded_signatures_are_those_of_the_adapters(key):
    """Every argument that the package passes is one that the function takes."""
    adapter = getattr(integrations, key)
    with recorded(key):
        for where, (_, name, former) in _adapter.check(key).items():
            ours = getattr(adapter, name, None)
            if ours is not None:
                takes = list(inspect.signature(ours).parameters.values())
                told = list(inspect.signature(former).parameters.values())
                assert [(p.name, p.default) for p in takes] == [(p.name, p.default) for p in told], where


def formula(z, ids):
    p = torch.log_softmax(z, -1)
    return p.gather(-1, ids[:, None])[:, 0], -(p.exp() * p).sum(-1)


def test_slime_and_miles(group):
    z, ids = given_logits(), torch.arange(ROWS)
    wide = z.detach().double().requires_grad_()
    for key, path in (
        ("slime", "slime.utils.ppo_utils"),
        ("miles", "miles.backends.training_utils.loss_hub.math_utils"),
    ):
        with recorded(key), installed(getattr(integrations, key)):
            function = importlib.import_module(path).calculate_log_probs_and_entropy
            logprobs, entropy = function(z, ids, group, with_entropy=True, chunk_size=3)
            assert logprobs.shape == (ROWS, 1)
            assert_near([logprobs[:, 0], entropy], formula(wide, ids), [z], [wide], 16.0, 0, 2.0**-20)
            assert function(z, ids, group)[1] is None
            assert function(z[:0], ids[:0], None, True)[1].shape == (0,)
    keep = torch.rand(ROWS, VOCAB, generator=torch.Generator().manual_seed(3)) < 0.5
    keep[0, 0] = False  # the token itself, which stays nevertheless
    masked = keep.scatter(1, ids[:, None], True)
    wanted = formula(z.detach().double().masked_fill(~masked, -torch.inf), ids)[0]
    got, entropy = integrations.slime.calculate_log_probs_and_entropy(z, ids, None, True, -1, keep, False)
    assert (got[:, 0] - wanted).abs().max() < 1e-6 and not entropy.requires_grad
    got, entropy = integrations.miles.calculate_log_probs_and_entropy(z, ids, None, True, False, -1, True, VOCAB - 3)
    wanted = formula(z.detach().double()[:, : VOCAB - 3], ids)
    assert got.shape == (ROWS,) and not entropy.requires_grad and (got - wanted[0]).abs().max() < 1e-6
    assert (entropy - wanted[1]).abs().max() < 1e-6


def test_roll():
    z, ids = given_logits(), torch.arange(ROWS)
    wide = z.detach().double().requires_grad_()
    with recorded("roll"), installed(integrations.roll):
        module = importlib.import_module("roll.utils.functionals")
        results = [module.log_probs_from_logits(z, ids), module.entropy_from_logits(z)]
    assert_near(results, formula(wide, ids), [z], [wide], 16.0, 0, 2.0**-20)


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
    assert (given["support_logprobs"] - p[..., :6]).abs().max() < 1e-5
    top = model.lm_head(hidden, ids.reshape(2, 4), temperature, support_topk=3)
    assert torch.equal(top["topk_token_ids"], p.topk(3).indices)
    assert (top["support_logprobs"] - p.topk(3).values).abs().max() < 1e-5 and top["support_logprobs"].requires_grad
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
