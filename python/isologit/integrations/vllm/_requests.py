"""Which draws are a request's: its seed, and the index of each of its n sequences, on their way to the sampler.

vLLM gives the sampler neither: a child of n requests has the seed plus its index, as a generator of torch. So both are
put into extra_args, which vLLM has for such things, where requests enter the engine; and the seed is taken away, since
nothing else needs a generator.
"""

import copy
import functools
import logging
import secrets
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.parallel_sampling import ParentRequest

from isologit.integrations.vllm import _settings

_KEY = "isologit_draws"
_log = logging.getLogger("vllm.isologit")


def install() -> None:
    make, process_inputs = InputProcessor.__init__, InputProcessor.process_inputs
    get_child_info = ParentRequest.get_child_info

    @functools.wraps(make)
    def make_and_read(self: InputProcessor, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        # Here, as the worker reads it where the model is made: what changes later is no setting of this engine.
        self.isologit = _settings.read(self.vllm_config.additional_config)

    @functools.wraps(process_inputs)
    def process_and_number(self: InputProcessor, *args: Any, **kwargs: Any) -> Any:
        request = process_inputs(self, *args, **kwargs)
        if self.isologit is not None and self.isologit.draws == "contract" and request.sampling_params is not None:
            _number(request.sampling_params, request.request_id)
        return request

    @functools.wraps(get_child_info)
    def get_numbered_child_info(self: ParentRequest, index: int) -> tuple[str, SamplingParams]:
        child_id, params = get_child_info(self, index)
        numbers = _numbers(params)
        if numbers is None:
            return child_id, params
        params = copy.copy(params)  # vLLM has one for all children
        params.extra_args = params.extra_args | {_KEY: [numbers[0], index]}
        return child_id, params

    InputProcessor.__init__ = make_and_read
    InputProcessor.process_inputs = process_and_number
    ParentRequest.get_child_info = get_numbered_child_info


def _number(params: SamplingParams, request_id: str) -> None:
    """Of the request's own copy of the parameters."""
    seed = params.seed
    if seed is None:
        seed = secrets.randbits(63)
        _log.info("request %s has no seed: its draws have the seed %d", request_id, seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed is {seed}; expected a number of 64 bits")
    params.seed = None
    params.__dict__.pop("sampling_type", None)  # vLLM's cache of what the seed says
    params.extra_args = (params.extra_args or {}) | {_KEY: [seed % 2**64, 0]}


def _numbers(params: SamplingParams) -> list[int] | None:
    return (params.extra_args or {}).get(_KEY)


def is_numbered(params: SamplingParams) -> bool:
    return _numbers(params) is not None


def numbers_of(params: SamplingParams, request_id: str) -> tuple[int, int]:
    """The seed, as the same bits of a signed number, and the sequence id."""
    numbers = _numbers(params)
    if numbers is None:
        raise RuntimeError(
            f"isologit: the request {request_id} reached the sampler without a seed for its draws; expected one that "
            'entered by vLLM\'s InputProcessor. Send it that way, or set "draws": "engine" in '
            'additional_config["isologit"]'
        )
    seed, index = numbers
    return (seed - 2**64 if seed >= 2**63 else seed), index
