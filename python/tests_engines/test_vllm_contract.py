"""What the plugin takes for granted of the installed vLLM: a failure here says what drifted."""

import ast
import inspect
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import vllm
from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu.sample import logprob
from vllm.v1.worker.gpu.sample import sampler as v2_sampler
from vllm.v1.worker.gpu.sample.states import SamplingStates
from vllm.v1.worker.gpu.spec_decode import rejection_sampler as v2_rejection_sampler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.worker_base import WorkerBase, WorkerWrapperBase

FOLDER = Path(vllm.__file__).parent
PROCESS_INPUTS = (
    "self request_id prompt params supported_tasks arrival_time lora_request tokenization_kwargs trace_headers "
    "priority data_parallel_rank resumable session_id kv_hints"
)
REJECTION_SAMPLE = (
    "draft_token_ids num_draft_tokens max_spec_len cu_num_draft_tokens draft_probs target_logits bonus_token_ids "
    "sampling_metadata synthetic_mode synthetic_conditional_rates use_fp64_gumbel"
)
SAMPLE_RANDOM = "self processed_logits expanded_idx_mapping idx_mapping_np pos top_k top_p use_fused_sampler"
VERIFY = (
    "self logits draft_logits draft_sampled pos cu_num_logits idx_mapping idx_mapping_np expanded_idx_mapping "
    "expanded_local_pos seq_lens_upper_bound_np verify_draft_sampled"
)
COMPUTE_TOPK_SCORES = (
    "logits num_logprobs sampled_token_ids cu_num_logits logprob_token_ids_state expanded_idx_mapping "
    "max_per_req_token_ids logits_mode"
)


@pytest.mark.parametrize(
    ("owner", "method", "parameters"),
    [
        (LogitsProcessor, "_apply_head", "self lm_head hidden_states embedding_bias"),
        (LogitsProcessor, "forward", "self lm_head hidden_states embedding_bias skip_gather"),
        (LogitsProcessor, "_get_logits", "self hidden_states lm_head embedding_bias skip_gather"),
        (LogitsProcessor, "get_top_tokens", "self lm_head hidden_states embedding_bias"),
        (LogitsProcessor, "get_top_k_tokens", "self lm_head hidden_states k embedding_bias return_log_probs"),
        (LogitsProcessorWithLoRA, "_get_logits", "self hidden_states lm_head embedding_bias skip_gather"),
        (Sampler, "forward", "self logits sampling_metadata predict_bonus_token logprobs_mode_override"),
        (Sampler, "sample", "self logits sampling_metadata logprobs_mode_override"),
        (Sampler, "compute_logprobs", "logits"),
        (Sampler, "gather_logprobs", "logprobs num_logprobs token_ids"),
        (Sampler, "apply_temperature", "logits temp all_random"),
        (InputProcessor, "process_inputs", PROCESS_INPUTS),
        (ParentRequest, "get_child_info", "self index"),
        (GPUModelRunner, "_get_prompt_logprobs_dict", "self hidden_states num_scheduled_tokens"),
        (GPUModelRunner, "_sample", "self logits spec_decode_metadata"),
        (MinPLogitsProcessor, "apply", "self logits"),
        (logprob, "compute_token_logprobs", "logits token_ids"),
        (logprob, "compute_topk_scores", COMPUTE_TOPK_SCORES),
        (rejection_sampler, "apply_sampling_constraints", "logits cu_num_draft_tokens sampling_metadata"),
        (rejection_sampler, "rejection_sample", REJECTION_SAMPLE),
        (rejection_sampler.RejectionSampler, "forward", "self metadata draft_probs logits sampling_metadata"),
        (v2_sampler.Sampler, "add_request", "self req_idx sampling_params"),
        (v2_sampler.Sampler, "_sample_random", SAMPLE_RANDOM),
        (v2_rejection_sampler.RejectionSampler, "_verify", VERIFY),
        (SamplingStates, "apply_min_p", "self logits expanded_idx_mapping idx_mapping_np"),
        (TopKTopPSampler, "forward_native", "self logits generators k p"),
        (TopKTopPSampler, "forward_cpu", "self logits generators k p"),
        (WorkerWrapperBase, "initialize_from_config", "self kv_cache_configs"),
        (WorkerBase, "get_model", "self"),
    ],
)
def test_signature(owner, method, parameters):
    function = inspect.unwrap(getattr(owner, method))
    assert list(inspect.signature(function).parameters) == parameters.split()


def functions_that_call(path: str, name: str) -> set[str]:
    tree = ast.parse((FOLDER / path).read_text())
    return {
        function.name
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == name
    }


def test_version():
    assert vllm.__version__.split(".")[:2] == ["0", "32"]


def test_entry_point():
    (plugin,) = [point for point in entry_points(group="vllm.general_plugins") if point.name == "isologit"]
    assert plugin.value == "isologit.integrations.vllm:register"
    assert not entry_points(group="vllm.logits_processors")  # its presence moves models to another runner


def test_all_ways_to_logits_lead_through_the_hook():
    layer = "model_executor/layers/logits_processor.py"
    assert functions_that_call(layer, "_apply_head") == {"_get_logits", "get_top_tokens", "get_top_k_tokens"}
    assert functions_that_call(layer, "apply") | functions_that_call(layer, "linear") == {"_apply_head"}
    assert functions_that_call("lora/layers/logits_processor.py", "_apply_head") == {"_get_logits"}


def test_where_logprobs_are_made():
    def with_log_softmax(folder: str) -> set[tuple[str, str]]:
        files = sorted(path.relative_to(FOLDER) for path in (FOLDER / folder).rglob("*.py"))
        return {(path.name, name) for path in files for name in functions_that_call(str(path), "log_softmax")}

    made = {("sampler.py", "compute_logprobs")}
    made |= {("topk_topp_sampler.py", "forward_native"), ("topk_topp_sampler.py", "forward_cpu")}
    assert with_log_softmax("v1/sample") == made
    assert with_log_softmax("v1/worker") == set()  # but for the V2 runner's kernel in Triton


def callers(name: str) -> set[tuple[str, str]]:
    files = [path.relative_to(FOLDER) for path in FOLDER.rglob("*.py") if name in path.read_text()]
    return {(str(path), function) for path in files for function in functions_that_call(str(path), name)}


def test_where_the_v2_runner_makes_logprobs():
    """The kernel is started in one function, whose name is known in two modules."""
    assert "_topk_log_softmax_kernel[" in inspect.getsource(logprob.compute_token_logprobs)
    text = (FOLDER / "v1/worker/gpu/sample/logprob.py").read_text()
    assert text.count("_topk_log_softmax_kernel[") == 1
    folder = "v1/worker/gpu/sample/"
    assert callers("compute_token_logprobs") == {
        (folder + "logprob.py", "compute_topk_scores"),
        (folder + "prompt_logprob.py", "compute_prompt_token_id_logprobs"),
    }
    assert {path for path, _ in callers("compute_topk_scores")} == {
        folder + "prompt_logprob.py",
        folder + "sampler.py",
        "v1/worker/gpu/spec_decode/rejection_sampler.py",
        "model_executor/models/diffusion_gemma.py",
    }


def test_the_ways_that_requests_enter_by():
    """Each fans out by get_child_info after process_inputs has had the request."""
    assert {path for path, _ in callers("process_inputs")} == {"v1/engine/llm_engine.py", "v1/engine/async_llm.py"}
    assert {path for path, _ in callers("get_child_info")} == {"v1/engine/llm_engine.py", "v1/engine/async_llm.py"}


def test_what_draws_take_from_the_runner():
    assert "self.topk_topp_sampler(" in inspect.getsource(Sampler.sample)
    booked = inspect.getsource(GPUModelRunner._bookkeeping_sync)
    assert "start_idx = self.input_batch.num_tokens_no_spec[req_idx]" in booked  # where the drawn token is put
    assert booked.index("sampled_token_ids") < booked.index("num_tokens_no_spec")


def test_what_draws_take_from_the_v2_runner():
    sample = inspect.getsource(v2_sampler.Sampler.sample)
    assert "skip_top_k_top_p=True" in sample and "self._sample_random(" in sample
    assert "self.sampling_states.apply_min_p(" in inspect.getsource(v2_sampler.Sampler.apply_sampling_params)
    warm_up = (FOLDER / "v1/worker/gpu/warmup.py").read_text()
    assert 'f"_warmup_{i}_"' in warm_up and 'req_id_prefix: str = "_v2_mixed_warmup"' in warm_up
    call = inspect.getsource(v2_sampler.Sampler.__call__)
    assert "pos = input_batch.positions[input_batch.logits_indices]" in call  # of the token before what is drawn


def test_how_drafts_are_accepted():
    """By two functions of the module, and from the rows that the plugin takes for drafts' and for bonus tokens'."""
    source = inspect.getsource(rejection_sampler.RejectionSampler.forward)
    assert source.count("apply_sampling_constraints(") == source.count("rejection_sample(") == 1
    assert "logits[bonus_logits_indices]" in source and "logits[target_logits_indices]" in source


def test_the_processed_mode_that_the_plugin_asks_for():
    """In the mode processed_logits no log_softmax is taken, so that the plugin can."""
    for method in (TopKTopPSampler.forward_native, TopKTopPSampler.forward_cpu, Sampler.sample):
        source = inspect.getsource(method)
        assert 'logprobs_mode == "processed_logits"' in source and 'logprobs_mode == "processed_logprobs"' in source


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_greedy_takes_the_lowest_id_of_equal_logits(rows):
    import torch

    generator = torch.Generator().manual_seed(rows)
    for vocab_size in (7, 64, 4091, 151936):
        logits = torch.randint(-3, 3, (rows, vocab_size), generator=generator).float()  # many are the highest
        lowest = [row.index(max(row)) for row in logits.tolist()]
        assert Sampler.greedy_sample(logits).tolist() == lowest
