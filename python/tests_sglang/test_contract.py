"""What the plugin takes for granted of the installed SGLang: a failure here says what drifted, and in which version."""

import ast
from importlib.metadata import distribution, entry_points

import pytest

SGLANG = distribution("sglang")
NAME = f"sglang {SGLANG.version}"


def tree(path: str) -> ast.Module:
    return ast.parse(SGLANG.locate_file(f"sglang/srt/{path}").read_text())


def functions(path: str) -> dict[str, ast.FunctionDef]:
    found = {node.name: node for node in tree(path).body if isinstance(node, ast.FunctionDef)}
    for owner in tree(path).body:
        if isinstance(owner, ast.ClassDef):
            found |= {f"{owner.name}.{node.name}": node for node in owner.body if isinstance(node, ast.FunctionDef)}
    return found


def parameters(function: ast.FunctionDef) -> str:
    """Without types and defaults; * before those that are given by name."""
    named = [argument.arg for argument in function.args.kwonlyargs]
    return " ".join([*(argument.arg for argument in function.args.args), *(["*", *named] if named else [])])


def functions_that_call(path: str, name: str) -> set[str]:
    return {
        owner
        for owner, function in functions(path).items()
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == name
    }


def test_version():
    assert SGLANG.version.split(".")[:2] == ["0", "5"], NAME


@pytest.mark.parametrize(
    ("path", "function", "expected"),
    [
        (
            "layers/logits_processor.py",
            "LogitsProcessor._compute_lm_head",
            "self hidden_states lm_head embedding_bias * out",
        ),
        (
            "layers/logits_processor.py",
            "LogitsProcessor._get_logits",
            "self hidden_states lm_head logits_metadata embedding_bias use_logits_buffer",
        ),
        (
            "layers/logits_processor.py",
            "LogitsProcessor.__init__",
            "self config skip_all_gather logit_scale return_full_logits",
        ),
        (
            "layers/logits_processor.py",
            "LogitsProcessor.compute_logprobs_for_multi_item_scoring",
            "self input_ids hidden_states lm_head logits_metadata multi_item_delimiter_indices",
        ),
        (
            "layers/logits_processor.py",
            "LogitsProcessor.compute_logprobs_at_positions",
            "self input_ids hidden_states lm_head logits_metadata token_indices_to_pool",
        ),
        ("layers/logits_processor.py", "should_apply_lm_head_quant_method", "lm_head quant_method"),
        ("layers/amx_utils.py", "PackWeightMethod.process_weights_after_loading", "self module"),
        (
            "layers/sampler.py",
            "Sampler.forward",
            "self logits_output sampling_info return_logprob top_logprobs_nums token_ids_logprobs positions "
            "* logprob_logits",
        ),
        ("layers/sampler.py", "Sampler._preprocess_logits", "self logits sampling_info"),
        (
            "layers/logprob_processor.py",
            "InputLogprobProcessor.forward",
            "self pruned_states sample_indices input_logprob_indices token_to_seq_idx lm_head get_logits_fn "
            "logits_metadata skip_chunking_for_dp_attn",
        ),
        (
            "layers/logprob_processor.py",
            "OutputLogprobProcessor.compute_logprobs_only",
            "self next_token_logits top_logprobs_nums token_ids_logprobs preprocess_fn",
        ),
        (
            "layers/logprob_processor.py",
            "compute_spec_logprobs",
            "batch logits_output predict * accept_index chain_stride",
        ),
        ("utils/numa_utils.py", "init_threads_binding", "* numa_index world_size"),
        ("plugins/hook_registry.py", "HookRegistry.register", "cls target hook hook_type * source"),
    ],
)
def test_signature(path, function, expected):
    found = functions(path).get(function)
    assert found is not None, f"{NAME}: {path} has no {function}"
    assert parameters(found) == expected, f"{NAME}: {path}: {function} takes {parameters(found)}; expected {expected}"


def test_entry_point():
    (plugin,) = [point for point in entry_points(group="sglang.srt.plugins") if point.name == "isologit"]
    assert plugin.value == "isologit.integrations.sglang:register"


def test_all_ways_to_logits_lead_through_the_hook():
    layer = "layers/logits_processor.py"
    assert functions_that_call(layer, "_compute_lm_head") == {"LogitsProcessor._get_logits"}, NAME
    products = {"LogitsProcessor._compute_lm_head"}
    assert functions_that_call(layer, "matmul") | functions_that_call(layer, "mm") == products, NAME


def test_where_logprobs_are_made():
    hooked = {"InputLogprobProcessor._forward_by_chunk", "OutputLogprobProcessor.compute_logprobs_only"}
    made = functions_that_call("layers/logprob_processor.py", "log_softmax")
    assert made == {*hooked, "compute_spec_logprobs"}, NAME
    made = functions_that_call("layers/logits_processor.py", "log_softmax")
    hooked = {"compute_logprobs_for_multi_item_scoring", "compute_logprobs_at_positions"}
    assert made == {f"LogitsProcessor.{name}" for name in hooked}, NAME
    # The second is for another kind of device.
    assert functions_that_call("layers/sampler.py", "log_softmax") == {
        "Sampler.forward",
        "Sampler._forward_ascend_backend",
    }, NAME


def test_who_overrides_the_hook():
    """What is refused, and named in the page."""
    folder = SGLANG.locate_file("sglang/srt/models")
    overriding = {path.name for path in folder.glob("*.py") if "def _compute_lm_head" in path.read_text()}
    assert overriding == {"muse_spark.py"}, NAME
