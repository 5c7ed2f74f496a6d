"""What the plugin puts into vLLM's classes, and the check, before an engine serves, that it is in force there."""

import functools
import logging
from typing import Any

import torch
import vllm
from vllm.distributed import get_pp_group, get_tp_group
from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.v1.worker.worker_base import WorkerBase, WorkerWrapperBase

import isologit
from isologit.integrations.vllm import _body, _capture, _requests, _settings
from isologit.integrations.vllm._draws import ContractDraws
from isologit.integrations.vllm._head import IsologitLogitsProcessor
from isologit.integrations.vllm._logprobs import ExactLogprobs
from isologit.integrations.vllm._own_logits import OwnLogits, can_keep
from isologit.integrations.vllm._prompt_logprobs import PromptBlocks

_log = logging.getLogger("vllm.isologit")  # below "vllm", whose handler prints it


def install() -> None:
    """Never raises: without the option the plugin must not stand in anyone's way. With it, check() does."""
    if hasattr(WorkerBase, "isologit_state"):
        return
    if LogitsProcessor.__name__ not in op_registry_oot:
        LogitsProcessor.register_oot(IsologitLogitsProcessor)
    WorkerBase.isologit_state = state
    _body.install()
    _requests.install()
    initialize = WorkerWrapperBase.initialize_from_config

    # The last call before the engine serves, in every worker and after the model is loaded.
    @functools.wraps(initialize)
    def initialize_from_config(self: WorkerWrapperBase, *args: Any, **kwargs: Any) -> Any:
        start(self.worker)
        _capture.start(self.worker)
        return initialize(self, *args, **kwargs)

    WorkerWrapperBase.initialize_from_config = initialize_from_config


def start(worker: WorkerBase) -> None:
    settings = _settings.read(worker.vllm_config.additional_config)
    if settings is None:
        return
    processors = check(worker, settings)
    if settings.scope == "model":
        try:
            _body.put_in_place(worker.get_model(), worker.vllm_config, settings.threads, processors)
            _body.check(worker.get_model())
        except _body.Refused as refused:
            _refuse(f'"scope" is "model", and {refused} (or set "scope": "head")')
    is_v2 = getattr(worker, "use_v2_model_runner", False)
    if settings.draws == "contract":
        _put_draws_in_place(worker, is_v2, settings.threads, processors)
    if settings.logprobs == "exact":
        if is_v2:
            from isologit.integrations.vllm import _logprobs_v2

            _logprobs_v2.put_in_place(settings.threads, processors)
        else:
            ExactLogprobs(worker.model_runner.sampler, settings.threads, processors)
    if not is_v2:
        PromptBlocks(worker.model_runner, _own_logits(worker, settings, processors))
    _log.info(
        "isologit %s in vLLM %s: %s, processors %s",
        isologit.__version__,
        vllm.__version__,
        settings,
        ",".join(map(str, sorted(processors))),
    )


def _refuse(what: str) -> None:
    raise RuntimeError(
        f'isologit {isologit.__version__} in vLLM {vllm.__version__}: additional_config["isologit"] (or fp32_lm_head) '
        f"asks for isologit's head, but {what}. Switch that off, use the versions of docs/integrations/vllm.md, or "
        "take the option out of additional_config"
    )


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def check(worker: WorkerBase, settings: _settings.Settings) -> frozenset[int]:
    """Raises unless the model's logits come from here. Returns the processors that they use."""
    model = worker.get_model()
    layers = _layers(model)
    if not layers:
        _refuse(f"the model {type(model).__name__} has no LogitsProcessor: nothing in it makes logits")
    for layer in layers:
        if type(layer)._apply_head is not IsologitLogitsProcessor._apply_head or "_apply_head" in vars(layer):
            _refuse(f"the model's layer is {_name(type(layer))}, registered or derived by someone else")
        if layer.isologit != settings:
            _refuse(f"the model's layer was made with other settings ({layer.isologit or 'off'})")
    # vLLM's wrapper for LoRA cannot be called before a first batch has named its adapters.
    if get_pp_group().is_last_rank and worker.vllm_config.lora_config is None:
        _check_call(worker, model, layers)
    return layers[0].isologit_processors


def _layers(model: torch.nn.Module) -> list[LogitsProcessor]:
    return [module for module in model.modules() if isinstance(module, LogitsProcessor)]


def _row(worker: WorkerBase) -> torch.Tensor:
    config = worker.vllm_config.model_config
    return torch.ones(1, config.get_hidden_size(), dtype=config.dtype, device=worker.device)


def _own_logits(worker: WorkerBase, settings: _settings.Settings, processors: frozenset[int]) -> OwnLogits | None:
    """None where prompt scores are made of all logits: vLLM's wrapper for LoRA adds its part to gathered ones, and what
    the ranks tell one another goes over gloo, from the CPU."""
    model = worker.get_model()
    layers = _layers(model)
    ranks = get_tp_group().world_size if get_pp_group().is_last_rank else 1
    wrapped = worker.vllm_config.lora_config is not None
    elsewhere = worker.device.type != "cpu"
    if settings.logprobs != "exact" or ranks == 1 or wrapped or elsewhere or len(layers) > 1:
        return None
    if not can_keep(layers[0], model.compute_logits, _row(worker)):
        return None
    return OwnLogits(layers[0], worker.model_runner.sampler, settings.threads, processors)


@torch.inference_mode()
def _check_call(worker: WorkerBase, model: torch.nn.Module, layers: list[IsologitLogitsProcessor]) -> None:
    """One row through the model's own path to logits; all ranks take part."""
    before = sum(layer.isologit_calls for layer in layers)
    model.compute_logits(_row(worker))
    if sum(layer.isologit_calls for layer in layers) == before:
        changed = [
            f"LogitsProcessor.{name} is {_name(method)}"
            for name in ("forward", "_get_logits", "_apply_head")
            if (method := getattr(LogitsProcessor, name)).__module__ != LogitsProcessor.__module__
        ]
        how = "; ".join(changed) or "it has its own way"
        _refuse(f"{type(model).__name__}.compute_logits does not call it ({how})")


def _put_draws_in_place(worker: WorkerBase, is_v2: bool, threads: int, processors: frozenset[int]) -> None:
    runner, speculative = worker.model_runner, worker.vllm_config.speculative_config
    if not get_pp_group().is_last_rank:
        return  # no logits come here
    if speculative is not None and speculative.rejection_sample_method == "synthetic":
        _refuse(
            'drafts are accepted at synthetic rates, whatever is drawn, and "draws" is "contract" (set '
            'rejection_sample_method to "standard", or "draws" to "engine")'
        )
    if is_v2:
        from isologit.integrations.vllm import _draws_v2

        _draws_v2.ContractDraws(runner, threads, processors)
        return
    draws = ContractDraws(runner, threads, processors)
    if speculative is not None:
        from isologit.integrations.vllm._draws_ahead import DraftsByDraws

        DraftsByDraws(runner, draws)


def state(worker: WorkerBase) -> dict[str, Any]:
    """LLM.collective_rpc("isologit_state"): what is in force in each worker, and how often, and with how many rows, its
    head has been called."""
    layers = [module for module in worker.get_model().modules() if isinstance(module, IsologitLogitsProcessor)]
    settings = next((layer.isologit for layer in layers if layer.isologit), None)
    if settings is None:
        return {"on": False, "isologit": isologit.__version__, "vllm": vllm.__version__}
    return {
        "on": True,
        "isologit": isologit.__version__,
        "vllm": vllm.__version__,
        "arithmetic": settings.arithmetic,
        "logprobs": settings.logprobs,
        "draws": settings.draws,
        "scope": "model" if _body.is_exact(worker.get_model()) else "head",
        "threads": settings.threads,
        "processors": sorted(layers[0].isologit_processors),
        "calls": sum(layer.isologit_calls for layer in layers),
        "rows": sum(layer.isologit_rows for layer in layers),
    }
