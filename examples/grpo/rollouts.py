"""Rollouts by a real vLLM engine on the CPU, in this process, whose weights are the trainer's at every step."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from configuration import MODEL, NEW_TOKENS, Run
from safetensors.torch import load_file
from torch import Tensor, nn
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

torch.cpu._init_amx()  # vLLM 0.32 forgets it for models as small as this one


class Rollout(NamedTuple):
    """Of N completions: the ids, the logprobs that the engine reports, and the states that its head was given."""

    prompt_ids: list[list[int]]
    ids: list[list[int]]
    logprobs: Tensor  # [N, NEW_TOKENS]
    hidden: Tensor  # [N, NEW_TOKENS, H]


class Engine:
    """vLLM as a run wants it. `rows`: how many rows of logits isologit has made in it."""

    def __init__(self, run: Run) -> None:
        self._isologit = bool(run.scope)
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
            use_tqdm_on_load=False,
            hf_overrides={"head_dtype": "float32"} if run.f32 else {},
            additional_config={"isologit": {"scope": run.scope}} if run.scope else {},
        )
        self.rows = 0

    def stop(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()
        shutil.rmtree(self._folder)

    def sync(self, model: nn.Module) -> None:
        """Writes the model's weights into those of the engine, in place."""
        weights = [(name, tensor) for name, tensor in model.state_dict().items() if name != "lm_head.weight"]  # tied
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._isologit:
            self._llm.collective_rpc(pack_head_again)
        self._llm.reset_prefix_cache()

    def roll_out(self, prompt_ids: list[list[int]]) -> Rollout:
        params = SamplingParams(
            temperature=1.0, max_tokens=NEW_TOKENS, min_tokens=NEW_TOKENS, ignore_eos=True, logprobs=0, detokenize=False
        )
        before = self._rows()
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompt_ids], params, use_tqdm=False)
        completions = [output.outputs[0] for output in outputs]
        ids = [list(one.token_ids) for one in completions]
        reported = torch.tensor(
            [
                [returned[token].logprob for token, returned in zip(one.token_ids, one.logprobs, strict=True)]
                for one in completions
            ]
        )
        made = self._rows() - before
        expect_made(made, reported.numel() if self._isologit else 0, "rows of vLLM's logits")
        self.rows += made
        return Rollout(prompt_ids, ids, reported, self._states(ids, reported))

    def _rows(self) -> int:
        """How many rows of logits isologit has made since the engine began."""
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


def pack_head_again(worker: Any) -> None:
    """vLLM's own head multiplies a packed copy of its weight, and a tied one is left as it was by reload_weights."""
    for module in worker.get_model().modules():
        if isinstance(module, VocabParallelEmbedding):
            module.quant_method.process_weights_after_loading(module)


def expect_made(made: int, expected: int, what: str) -> None:
    """That each logprob of a run with isologit is isologit's, and none of a run without."""
    if made != expected:
        raise RuntimeError(f"isologit made {made} {what}; expected {expected}")
