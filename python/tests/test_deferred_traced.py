"""Models of Transformers that torch.compile has traced and that are called with labels: the graph makes the loss of
hidden states, and what it returns in the place of logits is made when it is looked at."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from expected import same_bits  # noqa: E402
from functorch.compile import make_boxed_func  # noqa: E402
from test_deferred import KINDS, LABELS, gradients, installed  # noqa: E402
from test_hf import IDS, VOCAB, body, tiny  # noqa: E402
from torch._dynamo.backends.common import aot_autograd  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from transformers.loss.loss_utils import ForCausalLMLoss  # noqa: E402

import isologit  # noqa: E402
import isologit.hf  # noqa: E402
from isologit import _deferred  # noqa: E402
from isologit._deferred_traced import TracedLogits  # noqa: E402
from isologit._labels import causal_lm_loss, defer  # noqa: E402


class Compiled:
    """A function that is compiled anew, and the most elements of a tensor [..., V] that its graphs, backward's too,
    make."""

    def __init__(self, function, **options):
        self.size = 0
        torch.compiler.reset()
        backend = aot_autograd(fw_compiler=self.seen, bw_compiler=self.seen)
        self.function = torch.compile(function, backend=backend, **options)

    def __call__(self, *arguments, **named):
        return self.function(*arguments, **named)

    def seen(self, graph, _):
        for node in graph.graph.nodes:
            made = [x for x in tree_leaves(node.meta.get("val")) if isinstance(x, torch.Tensor) and x.dim()]
            sizes = [x.numel() for x in made if x.shape[-1] == VOCAB and 0 not in x.stride()]
            self.size = max(self.size, *sizes, 0)
        return make_boxed_func(graph.forward)


def memory(logits):
    with torch._C.DisableTorchFunctionSubclass():
        return logits.untyped_storage().nbytes()


@pytest.mark.parametrize(("family", "fullgraph"), [*((each, True) for each in KINDS), ("Gemma2", False)])
def test_no_graph_makes_logits(family, fullgraph):
    model, ids = installed(family, tied=False, dtype=torch.float32), IDS.repeat(20, 1)
    right = model(input_ids=ids, labels=ids)
    wanted = gradients(model, right.loss)
    compiled = Compiled(model, fullgraph=fullgraph)
    out = compiled(input_ids=ids, labels=ids, use_cache=False)
    found = gradients(model, out.loss)
    assert compiled.size == 0
    assert isinstance(out.logits, TracedLogits) and memory(out.logits) == 4
    # The body is torch's, as it compiles it.
    assert abs(out.loss - right.loss) < 1e-5 * right.loss
    assert all((one - other).abs().max() <= 1e-4 * other.abs().max() for one, other in zip(found, wanted, strict=True))
    compiled = Compiled(model, fullgraph=fullgraph)
    compiled(input_ids=ids, use_cache=False)
    assert compiled.size == ids.numel() * VOCAB


def of_the_head(head, hidden, call, **options):
    """A loss, and gradients of hidden states and of the head's weight."""
    hidden = hidden.detach().requires_grad_()
    head.zero_grad()
    loss = call(hidden, **options)
    loss.backward(torch.tensor(0.7))
    return loss.detach(), hidden.grad, head.weight.grad.clone()


def targets():
    return torch.nn.functional.pad(LABELS, (0, 1), value=-100)[:, 1:]


@pytest.mark.parametrize("order", ["softcap_first", "scale_first"])
def test_the_loss_in_a_graph_has_the_bits_of_the_definition(order):
    """Of cross_entropy, where the steps are the head's; else of the logits that the graph makes."""
    model = installed(dtype=torch.float32)
    hidden = body(model)
    options = {"softcap": 3.0, "scale": 0.7, "vocab_size": VOCAB}
    head = isologit.nn.LMHead(model.get_output_embeddings().weight, **options, transform_order=order)

    def cap(z):
        return 3.0 * torch.tanh(z / 3.0)

    def in_place(z):
        z.div_(2)
        return z

    ways = {
        "softcap_first": lambda z: cap(z) * 0.7,
        "scale_first": lambda z: cap(z * 0.7),
        "a product with 1": lambda z: ways[order](z * 1.0) / 1,
        "methods": lambda z: ways[order](z.mul(1.0).div(1)),
        "none": lambda z: z,
        "another cap": lambda z: 3.0 * torch.tanh(z / 3.5) * 0.7,
        "another scale": lambda z: cap(z) * 0.7000001,
        "more": lambda z: ways[order](z) + 1e-3,
        "by a tensor": lambda z: ways[order](z * torch.linspace(0.5, 1, VOCAB)),
        "in place": in_place,
        "in place after the steps": lambda z: in_place(ways[order](z)),
    }
    for name, steps in ways.items():
        its_own = name in (order, "a product with 1", "methods")

        def traced(hidden, steps=steps):
            return causal_lm_loss(steps(defer(head, hidden)), LABELS, VOCAB)

        def right(hidden, steps=steps, its_own=its_own):
            if its_own:
                return head.cross_entropy(hidden, targets())
            return ForCausalLMLoss(steps(head(hidden)), LABELS, VOCAB)

        compiled = Compiled(traced, fullgraph=True)
        found, wanted = of_the_head(head, hidden, compiled), of_the_head(head, hidden, right)
        assert compiled.size == (0 if its_own else LABELS.numel() * VOCAB), name
        if its_own:
            assert all(map(same_bits, found, wanted)), name
        assert all(
            (one - other).abs().max() <= 1e-5 * other.abs().max() for one, other in zip(found, wanted, strict=True)
        ), name


@pytest.mark.parametrize("count", [7, torch.tensor(7)])
def test_a_loss_over_a_number_is_rounded_once(count):
    model = installed(dtype=torch.float32)
    head, hidden = model.get_output_embeddings(), body(model)
    called = Compiled(lambda hidden, count: causal_lm_loss(defer(head, hidden), LABELS, VOCAB, count), fullgraph=True)

    def right(hidden, count):
        each = head.cross_entropy(hidden, targets(), reduction="none")
        return isologit.losses.mean(each, count)

    found, wanted = (of_the_head(head, hidden, call, count=count) for call in (called, right))
    assert all(map(same_bits, found, wanted))


@pytest.mark.parametrize("family", ["Qwen3", "Gemma2", "Granite"])
def test_logits_that_are_looked_at_when_the_graph_has_run(family):
    """They are the head's of the hidden states that the graph has, with gradients."""
    model = installed(family, tied=False, dtype=torch.float32)
    compiled = Compiled(model, fullgraph=True)
    found = compiled(input_ids=IDS, labels=LABELS, use_cache=False).logits
    right = model(input_ids=IDS, labels=LABELS).logits
    assert (found.shape, found.dtype, found.requires_grad) == (right.shape, right.dtype, True)
    wanted = gradients(model, (right[..., :-1, :] * 2).tanh().sum())
    of_graph = gradients(model, (found[..., :-1, :] * 2).tanh().sum())
    assert all((a - b).abs().max() <= 1e-4 * b.abs().max() for a, b in zip(of_graph, wanted, strict=True))
    with torch.no_grad():
        plain = compiled(input_ids=IDS, labels=LABELS, use_cache=False).logits
        assert memory(plain) == 4 and not plain.requires_grad
        head = model.get_output_embeddings()
        exact = _deferred.after(head(plain.hidden), _deferred.steps_of(head))
        assert same_bits(plain.detach(), exact) and (exact - right).abs().max() < 1e-4
    assert plain.tolist() == exact.tolist() == plain.numpy().tolist() == found.detach().numpy().tolist()
    with pytest.raises(RuntimeError, match="requires grad"):
        found.numpy()


def test_a_graphs_logits_of_a_weight_that_is_no_more_are_refused():
    model = installed(tied=False)
    compiled = Compiled(model, fullgraph=True)

    def left():
        return compiled(input_ids=IDS, labels=LABELS, use_cache=False).logits

    of_weight, of_hidden, of_another = left(), left(), left()
    assert left().sum().isfinite()
    with torch.no_grad():
        of_hidden.hidden[0, 0] += 1
        with pytest.raises(RuntimeError, match="were changed since the model was called with labels"):
            of_hidden.sum()
        model.lm_head.weight.mul_(2)
    with pytest.raises(RuntimeError, match="were changed since the model was called with labels"):
        of_weight.sum()
    assert left().sum().isfinite()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() / 2)
    with pytest.raises(RuntimeError, match="were changed since the model was called with labels"):
        of_another.sum()


def test_a_graph_in_inference_mode():
    model = installed(tied=False)
    right = model(input_ids=IDS, labels=LABELS).loss
    compiled = Compiled(model, fullgraph=True)
    with torch.inference_mode():
        out = compiled(input_ids=IDS, labels=LABELS, use_cache=False)
    assert compiled.size == 0 and abs(out.loss - right) < 1e-2
    assert memory(out.logits) == 4 and out.logits.sum().isfinite()


def test_a_body_that_breaks_the_graph():
    model = installed("Gemma2", tied=False)
    right = model(input_ids=IDS, labels=LABELS).loss
    model.base_model.norm.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    compiled, graphs = Compiled(model), []
    for _ in range(3):
        out = compiled(input_ids=IDS, labels=LABELS, use_cache=False)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert compiled.size == 0 and abs(out.loss - right) < 1e-2 * right and memory(out.logits) == 4
        out.loss.backward()
    assert graphs[0] > 1 and graphs[1] == graphs[2] and model.lm_head.instead is None


def test_a_head_with_hooks_makes_its_logits_in_a_graph():
    """A hook in a graph is given the logits themselves."""
    model = installed(tied=False)
    model.lm_head.register_forward_hook(lambda _, __, logits: logits / 2)
    right = model(input_ids=IDS, labels=LABELS).loss
    out = Compiled(model, fullgraph=True)(input_ids=IDS, labels=LABELS, use_cache=False)
    assert type(out.logits) is torch.Tensor and abs(out.loss - right) < 1e-2 * right


def test_an_adapted_head_in_a_graph():
    peft = pytest.importorskip("peft")
    model = tiny("Qwen3", False)
    model = peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules=["lm_head", "q_proj"]))
    layer = model.base_model.model.lm_head
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    isologit.hf.install(model)
    right = model(input_ids=IDS, labels=LABELS).loss
    compiled = Compiled(model)
    out = compiled(input_ids=IDS, labels=LABELS, use_cache=False)
    out.loss.backward()
    assert compiled.size == 0 and memory(out.logits) == 4
    assert abs(out.loss - right) < 1e-2 * right and layer.lora_A["default"].weight.grad.any()
