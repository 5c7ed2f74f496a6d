"""Captures what passes vLLM's head, its own or isologit's: `isologit capture FILE -- COMMAND` names the file to it.

The rows of sampled tokens; those of prompt logprobs are not written.
"""

import atexit
import logging
import os
from typing import Any

import torch
from vllm.distributed import get_pp_group, get_tp_group
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.v1.worker.worker_base import WorkerBase

from isologit._captured import Writer

VARIABLE = "ISOLOGIT_CAPTURE"
_log = logging.getLogger("vllm.isologit")


def start(worker: WorkerBase) -> None:
    """In every worker; one of them, which has all of the states and the sampler, writes."""
    path = os.environ.get(VARIABLE)
    if not path or not get_pp_group().is_last_rank or get_tp_group().rank_in_group != 0:
        return
    runner = worker.model_runner
    if getattr(worker, "use_v2_model_runner", False) or worker.vllm_config.speculative_config is not None:
        raise RuntimeError(
            f"isologit: {VARIABLE} asks for captured rows, which are taken in vLLM's V1 model runner without "
            "speculative decoding; switch the V2 runner or speculation off, or capture nothing"
        )
    writer = Writer(path, append=True, say=_log.info)
    worker.isologit_capture = _Rows(runner, writer)
    atexit.register(writer.flush)
    WorkerBase.isologit_captured = captured


def captured(worker: WorkerBase) -> int | None:
    """LLM.collective_rpc("isologit_captured"): writes what is held; how many rows there are. None in other workers."""
    rows = getattr(worker, "isologit_capture", None)
    if rows is None:
        return None
    rows.writer.flush()
    return rows.writer.rows


class _Rows:
    def __init__(self, runner: Any, writer: Writer) -> None:
        self.writer = writer
        self._runner = runner
        self._hidden: torch.Tensor | None = None
        self._numbers: dict[str, int] = {}
        self._sequences = writer.first_sequence
        self._sample, runner._sample = runner._sample, self._write
        for module in runner.model.modules():
            if isinstance(module, LogitsProcessor):
                module.register_forward_pre_hook(self._keep_states, with_kwargs=True)

    def _keep_states(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[1]

    def _write(self, *args: Any, **kwargs: Any) -> Any:
        hidden, self._hidden = self._hidden, None
        batch = self._runner.input_batch
        count = batch.num_reqs
        unused = torch.from_numpy(self._runner.discard_request_mask.np[:count].copy())
        positions = torch.from_numpy(batch.num_tokens_no_spec[:count].astype("int64")) - 1
        names = list(batch.req_ids[:count])
        output = self._sample(*args, **kwargs)
        if hidden is None or hidden.shape[0] != count:
            return output
        for name in names:
            if name not in self._numbers:
                self._numbers[name] = self._sequences
                self._sequences += 1
        live = set(self._runner.requests)
        tensors = output.logprobs_tensors
        reported = torch.full((count,), torch.nan) if tensors is None else tensors.logprobs[:count, 0].float().cpu()
        used = ~unused
        self.writer.add(
            hidden[used],
            token_ids=output.sampled_token_ids[:count, 0].cpu()[used],
            logprobs=reported[used],
            positions=positions[used],
            sequence_ids=torch.tensor([self._numbers[name] for name in names])[used],
            temperatures=self._temperatures(count)[used],
        )
        self._numbers = {name: number for name, number in self._numbers.items() if name in live}
        return output

    def _temperatures(self, count: int) -> torch.Tensor:
        """That of the reported logprobs: raw ones have none, greedy requests neither."""
        metadata = self._runner.input_batch.sampling_metadata
        if self._runner.sampler.logprobs_mode != "processed_logprobs" or metadata.temperature is None:
            return torch.ones(count)
        temperatures = metadata.temperature[:count].float().cpu()
        return torch.where(temperatures < 1e-5, torch.ones(count), temperatures)
