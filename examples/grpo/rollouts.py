"""Rollouts by a real vLLM engine on the CPU, in this process, whose weights are the trainer's at every step."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # the tensors are tiny
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # compiling vLLM's small helpers would take longer than the run
}

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

MODEL = Path(__file__).parents[1] / "tiny-qwen3"
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
PROMPT_TOKENS, NEW_TOKENS = 8, 16

torch.cpu._init_amx()  # vLLM 0.32 forgets it for models as small as this one


class Rollout(NamedTuple):
    """Of N completions: the ids, the logprobs that the engine reports, and the states that its head was given."""

    prompt_ids: list[list[int]]
    ids: list[list[int]]
    logprobs: Tensor  # [N, NEW_TOKENS]
    hidden: Tensor  # [N, NEW_TOKENS, H]


class Engine:
    """vLLM with an option of isologit's, or with another of its own. `rollouts` counts the batches that it has made."""

    def __init__(self, option: dict[str, Any] | None, head_dtype: str | None = None) -> None:
        self._isologit = option is not None
        self._folder = Path(tempfile.mkdtemp(prefix="grpo-"))
        for name in FILES:  # not captured.safetensors: vLLM loads every such file that it finds
            shutil.copy(MODEL / name, self._folder)
        self._captured = self._folder / "captured" / "rows.safetensors"
        os.environ["ISOLOGIT_CAPTURE"] = str(self._captured)
        self._llm = LLM(
            str(self._folder),
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=64,
            hf_overrides={"head_dtype": head_dtype} if head_dtype else {},
            additional_config={} if option is None else {"isologit": option},
        )
        self.rollouts = 0

    def stop(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()
        shutil.rmtree(self._folder)

    def sync(self, model: nn.Module) -> None:
        """Writes the model's weights into those of the engine, in place."""
        weights = [(name, tensor) for name, tensor in model.state_dict().items() if name != "lm_head.weight"]  # tied
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._llm.reset_prefix_cache()

    def roll_out(self, prompt_ids: list[list[int]]) -> Rollout:
        params = SamplingParams(
            temperature=1.0, max_tokens=NEW_TOKENS, min_tokens=NEW_TOKENS, ignore_eos=True, logprobs=0, detokenize=False
        )
        before = self._rows()
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompt_ids], params, use_tqdm=False)
        completions = [output.outputs[0] for output in outputs]
        ids = [list(one.token_ids) for one in completions]
        reported = [
            [returned[token].logprob for token, returned in zip(one.token_ids, one.logprobs, strict=True)]
            for one in completions
        ]
        made = self._rows() - before
        expect_made(made, sum(map(len, ids)) if self._isologit else 0, "rows of vLLM's logits")
        self.rollouts += 1
        return Rollout(prompt_ids, ids, torch.tensor(reported), self._states(ids, torch.tensor(reported)))

    def _rows(self) -> int:
        """How many rows of logits isologit has made in the engine."""
        (state,) = self._llm.collective_rpc("isologit_state")
        if state["on"] != self._isologit:
            raise RuntimeError(f"isologit in vLLM: {state}; expected it to be {'on' if self._isologit else 'off'}")
        return state.get("rows", 0)

    def _states(self, ids: list[list[int]], reported: Tensor) -> Tensor:
        """What `isologit capture` has kept of this batch, in the order of the requests."""
        self._llm.collective_rpc("isologit_captured")
        (file,) = self._captured.parent.iterdir()
        rows = load_file(file)
        file.unlink()
        order = torch.argsort(rows["sequence_ids"] * 4096 + rows["positions"])
        if not torch.equal(rows["token_ids"][order], torch.tensor(ids).flatten()) or not torch.equal(
            rows["logprobs"][order], reported.flatten()
        ):
            raise RuntimeError("the rows that were captured are not those of the completions that the engine returned")
        return rows["hidden_states"][order].unflatten(0, reported.shape)


def expect_made(made: int, expected: int, what: str) -> None:
    """That each logprob of a run with isologit is isologit's, and none of a run without."""
    if made != expected:
        raise RuntimeError(f"isologit made {made} {what}; expected {expected}")
