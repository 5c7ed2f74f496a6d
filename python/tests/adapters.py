"""The adapters of integrations as one table: each function that one of them stands in for, as rows see it."""

import contextlib
import importlib
import types
from collections.abc import Callable, Iterator
from typing import NamedTuple

import foreign
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from isologit import integrations
from isologit.integrations import _adapter, _table

VOCAB = 40
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
    "trl": ((), {}),
}


@contextlib.contextmanager
def package(key: str) -> Iterator[None]:
    """The real one if it is installed, and a skip if it is not; of those with a commit, a stand-in."""
    found = _table.PACKAGES[key]
    if not found.on_pypi:
        with recorded(key):
            yield
        return
    if _adapter.version(found) is None:
        pytest.skip(f"{found.distribution} is not installed")
    if key == "liger":
        pytest.importorskip("triton")
    bare, stand_ins = BARE[key]
    with foreign.imported(*bare, stand_ins=stand_ins), torch.compiler.set_stance("force_eager"):
        yield


@contextlib.contextmanager
def recorded(key: str) -> Iterator[None]:
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


@contextlib.contextmanager
def installed(module: types.ModuleType) -> Iterator[None]:
    """In force, called, and out again."""
    calls = module.adapter.calls
    module.install()
    assert module.in_force()
    try:
        yield
    finally:
        module.uninstall()
    assert module.adapter.calls > calls and not module.in_force()


@contextlib.contextmanager
def trl_installed(module: types.ModuleType) -> Iterator[None]:
    """As within a forward of a model that trl.install was given."""
    module._replace_names()
    before = module._call.set(module._Call(module._Head(VOCAB, {"transform_order": "scale_first"}, "fast")))
    try:
        yield
    finally:
        module._call.reset(before)
        module._restore_names()


def named(where: str) -> Callable:
    """What "module:name" stands for now."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


class Case(NamedTuple):
    """call(rows, weight, ids, temperature): the results [N] of N rows, or of all but the last; the logprobs first.

    Rows of hidden states [N, H], or of logits [N, V], where the weight is not looked at. In f64 the same is made by the
    code of `modules`, or, where the package's own cannot be run here, by a formula of the logits.
    """

    key: str
    call: Callable[[Tensor, Tensor, Tensor, float], list[Tensor]]
    modules: tuple[str, ...] = ()
    from_logits: bool = False
    has_entropy: bool = True
    has_temperature: bool = True
    force: Callable[[types.ModuleType], contextlib.AbstractContextManager[None]] = installed

    def ours(self) -> contextlib.AbstractContextManager[None]:
        return self.force(getattr(integrations, self.key))

    def logits(self, rows: Tensor, weight: Tensor) -> Tensor:
        return rows if self.from_logits else F.linear(rows, weight)

    def own(self, rows: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> list[Tensor]:
        """Of f64, within in_f64()."""
        if self.modules:
            return self.call(rows, weight, ids, temperature)
        return self.formulas(self.logits(rows, weight), ids, temperature)

    def formulas(self, z: Tensor, ids: Tensor, temperature: float) -> list[Tensor]:
        count = len(ids) - self.skips_last
        p = torch.log_softmax(z / temperature, -1)
        found = [p.gather(-1, ids[:, None])[:, 0], -(p.exp() * p).sum(-1)]
        return [x[:count] for x in (found if self.has_entropy else found[:1])]

    @property
    def skips_last(self) -> bool:
        return self.key in ("skyrl", "nemo_rl")

    def in_f64(self) -> contextlib.AbstractContextManager[None]:
        return foreign.in_f64(*map(importlib.import_module, self.modules))


def openrlhf(z, _, ids, temperature):
    utils = importlib.import_module("openrlhf.models.utils")
    return [utils.log_probs_from_logits(z * 1, ids, temperature), utils.compute_entropy(z)]


def areal(z, _, ids, temperature):
    module = importlib.import_module("areal.utils.functional.vocab_parallel")
    return list(module.gather_logprobs_entropy(z, ids, temperature))


def areal_logprobs(z, _, ids, temperature):
    function = named("areal.utils.functional.vocab_parallel:gather_logprobs")
    return [function(z, ids, temperature, dist.group.WORLD, chunk_size=3)]


def verl(hidden, weight, ids, temperature):
    heads = named("verl.utils.experimental.torch_functional:FusedLinearForPPO")
    return [x[0] for x in heads()(hidden[None], weight, ids[None], temperature)]


def verl_kernel(hidden, weight, ids, temperature):
    function = named("verl.utils.kernel.linear_cross_entropy:linear_cross_entropy")
    return list(function(hidden[:, None], weight, ids[None], temperature, "none", dist.group.WORLD))


def skyrl(hidden, weight, ids, _):
    function = named(f"{SKYRL}:from_parallel_hidden_to_logprobs")
    return [function(hidden[None], weight, ids.roll(1)[None], 0, VOCAB, dist.group.WORLD, chunk_size=3)[0]]


def nemo_rl(hidden, weight, ids, _):
    function = named("nemo_rl.distributed.model_utils:from_parallel_hidden_states_to_logprobs")
    return [function(hidden[:, None], weight, True, ids.roll(1)[None], 0, VOCAB, dist.group.WORLD, chunk_size=3)[0]]


def megatron(hidden, weight, ids, temperature):
    layer = types.SimpleNamespace(weight=None, bias=None, tp_group=dist.group.WORLD, sequence_parallel=True)
    given = {"hidden_states": hidden[:, None], "output_layer": layer, "output_weight": weight, "labels": ids[None]}
    scores = integrations.megatron.output_processor(**given, context={"temperature": temperature})
    return [scores.logprobs[0], scores.entropy[0]]


def liger(hidden, weight, ids, _):
    loss = named("liger_kernel.transformers:LigerFusedLinearCrossEntropyLoss")(reduction="none")
    return [0 - loss(weight, hidden, ids)]  # not -0


def slime(z, _, ids, temperature):
    function = named("slime.utils.ppo_utils:calculate_log_probs_and_entropy")
    logprobs, entropy = function(z, ids, dist.group.WORLD, with_entropy=True, chunk_size=3)
    return [logprobs[:, 0], entropy]


def miles(z, _, ids, temperature, true_on_policy=False):
    function = named("miles.backends.training_utils.loss_hub.math_utils:calculate_log_probs_and_entropy")
    logprobs, entropy = function(z, ids, dist.group.WORLD, with_entropy=True, true_on_policy=true_on_policy)
    return [logprobs.reshape(-1), entropy]


def roll(z, _, ids, temperature):
    module = importlib.import_module("roll.utils.functionals")
    return [module.log_probs_from_logits(z, ids), module.entropy_from_logits(z)]


def prime_rl(hidden, weight, ids, temperature):
    head = integrations.prime_rl.OutputLinear(weight, vocab_size=VOCAB)
    found = head(hidden[None], ids[None], torch.full((1, len(ids)), temperature))
    return [found["logprobs"][0], found["entropy"][0]]


def prime_rl_support(hidden, weight, ids, temperature):
    head = integrations.prime_rl.OutputLinear(weight, vocab_size=VOCAB)
    support = torch.stack([ids, ids], -1)
    found = head(hidden[None], ids[None], torch.full((1, len(ids)), temperature), support_token_ids=support[None])
    return [found["support_logprobs"][0, :, 1], found["entropy"][0]]


def trl(hidden, weight, ids, temperature):
    function = named("trl.trainer.utils:_ChunkedLogProbFunction")
    outputs = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
    return list(function.apply(hidden, weight, None, ids, temperature, 3, None, 1.0, outputs)[:2])


not_replaced = contextlib.nullcontext  # of what is an argument, or a module that is put into a model
CASES = {
    "verl": Case("verl", verl, ("verl.utils.experimental.torch_functional",)),
    "verl, kernel": Case("verl", verl_kernel),
    "trl": Case("trl", trl, ("trl.kernels.chunked_logprob",), force=trl_installed),
    "skyrl": Case("skyrl", skyrl, (SKYRL,), has_entropy=False, has_temperature=False),
    "nemo_rl": Case("nemo_rl", nemo_rl, has_entropy=False, has_temperature=False),
    "megatron": Case("megatron", megatron, force=not_replaced),
    "prime_rl": Case("prime_rl", prime_rl, force=not_replaced),
    "prime_rl, support": Case("prime_rl", prime_rl_support, force=not_replaced),
    "liger": Case("liger", liger, has_entropy=False, has_temperature=False),
    "openrlhf": Case("openrlhf", openrlhf, ("openrlhf.models.utils",), from_logits=True),
    "areal": Case("areal", areal, ("areal.utils.functional.vocab_parallel",), from_logits=True),
    "areal, logprobs": Case(
        "areal", areal_logprobs, ("areal.utils.functional.vocab_parallel",), from_logits=True, has_entropy=False
    ),
    "slime": Case("slime", slime, from_logits=True, has_temperature=False),
    "miles": Case("miles", miles, from_logits=True, has_temperature=False),
    "miles, on policy": Case(
        "miles",
        lambda *arguments: miles(*arguments, true_on_policy=True),
        from_logits=True,
        has_temperature=False,
    ),
    "roll": Case("roll", roll, from_logits=True, has_temperature=False),
}
