"""Rollouts as engines and trainers write them: token ids and the logprobs reported of those that were generated."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Rollout:
    """One sequence. logprobs[i] belongs to generated[i]; None where nothing was reported, or a mask leaves it out."""

    prompt: list[int]
    generated: list[int]
    logprobs: list[float | None]
    temperature: float | None = None  # None: not said
    name: str = ""

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.generated


EXPECTED = (
    "a vLLM output (prompt_token_ids, outputs), an OpenAI response (choices) with token ids, or an object with "
    "prompt_token_ids (or prompt_ids, prompts), token_ids (or completion_ids, responses) and logprobs (or "
    "completion_logprobs, rollout_log_probs)"
)
_PROMPT = ("prompt_token_ids", "prompt_ids", "prompts")
_GENERATED = ("token_ids", "completion_ids", "response_ids", "responses")
_LOGPROBS = ("logprobs", "completion_logprobs", "rollout_log_probs", "inference_logprobs")
_MASK = ("response_mask", "completion_mask")


def read(path: str | os.PathLike) -> list[Rollout]:
    """Of JSON lines, one JSON document, or Parquet."""
    found: list[Rollout] = []
    for where, record in _records(Path(path)):
        try:
            found += _of_record(record, where)
        except (AttributeError, KeyError, TypeError) as error:  # of what is no object, or no list
            raise ValueError(f"{where}: {type(error).__name__}: {error}; expected {EXPECTED}") from None
    if not found:
        raise ValueError(f"{os.fspath(path)}: no rollouts; expected lines of {EXPECTED}")
    return found


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError:
            raise ModuleNotFoundError(f"{path} is Parquet, which needs pyarrow: pip install pyarrow") from None
        try:
            records = parquet.read_table(path).to_pylist()
        except ValueError as error:  # pyarrow's own are among them
            raise ValueError(f"{path}: {error}; expected a Parquet file") from None
        for i, record in enumerate(records, 1):
            yield f"{path}, row {i}", record
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: {error}; expected text: JSON lines or JSON, or a Parquet file named .parquet"
        ) from None
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if whole is not None:
        for i, record in enumerate(whole if isinstance(whole, list) else [whole], 1):
            yield f"{path}, record {i}", record
        return
    for i, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"{path}, line {i}", json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {i}: not JSON ({error}); expected one object a line") from None


def _of_record(record: Any, where: str) -> Iterator[Rollout]:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {type(record).__name__}; expected {EXPECTED}")
    if isinstance(record.get("trajectory"), list):  # prime-rl's rollouts, by steps
        for step in record["trajectory"]:
            yield from _of_record(step.get("tokens") or step, where)
    elif isinstance(record.get("choices"), list):
        for choice in record["choices"]:
            yield _choice(record, choice, where)
    elif isinstance(record.get("outputs"), list):
        prompt = _first(record, _PROMPT, where)
        for output in record["outputs"]:
            common = {"prompt_token_ids": prompt, "temperature": _temperature(record, where)}
            yield _plain(common | output, where, str(record.get("request_id", "")))
    else:
        yield _plain(record, where, str(record.get("request_id", record.get("id", ""))))


def _plain(record: dict[str, Any], where: str, name: str) -> Rollout:
    prompt = [_id(one, where) for one in _first(record, _PROMPT, where)]
    generated = [_id(one, where) for one in _first(record, _GENERATED, where)]
    reported = _first(record, _LOGPROBS, where)
    if len(reported) != len(generated):
        raise ValueError(f"{where}: {len(reported)} logprobs of {len(generated)} tokens; expected one of each")
    logprobs = [_logprob(one, token, where) for one, token in zip(reported, generated, strict=True)]
    mask = next((record[key] for key in _MASK if record.get(key) is not None), None)
    attention = record.get("attention_mask")
    for name, one, expected in (
        ("a mask of the response", mask, len(generated)),
        ("an attention_mask", attention, len(prompt) + len(generated)),
    ):
        if one is not None and len(one) != expected:
            raise ValueError(f"{where}: {name} of {len(one)}; expected one of each token, {expected}")
    if attention is not None:  # verl's tensors, padded on both sides
        prompt = [one for one, there in zip(prompt, attention, strict=False) if there]
        there = attention[len(attention) - len(generated) :]
        kept = [i for i, one in enumerate(there) if one]
        generated, logprobs = [generated[i] for i in kept], [logprobs[i] for i in kept]
        mask = None if mask is None else [mask[i] for i in kept]
    if mask is not None:
        logprobs = [one if used else None for one, used in zip(logprobs, mask, strict=True)]
    return Rollout(prompt, generated, logprobs, _temperature(record, where), name)


def _choice(response: dict[str, Any], choice: dict[str, Any], where: str) -> Rollout:
    """Of an OpenAI response: completions or chat, with ids beside the logprobs or as tokens named "token_id:N"."""
    logprobs = choice.get("logprobs") or {}
    if logprobs.get("content"):
        tokens = [one["token"] for one in logprobs["content"]]
        values = [one["logprob"] for one in logprobs["content"]]
    else:
        tokens, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    ids = choice.get("token_ids")
    if ids is None:
        if not tokens or not all(str(one).startswith("token_id:") for one in tokens):
            raise ValueError(
                f"{where}: a response without token ids; ask vLLM for return_token_ids or return_tokens_as_token_ids"
            )
        ids = [int(one.removeprefix("token_id:")) for one in tokens]
    prompt = choice.get("prompt_token_ids") or response.get("prompt_token_ids")
    if prompt is None:
        raise ValueError(f"{where}: a response without prompt_token_ids; ask vLLM for return_token_ids")
    record = {"prompt_token_ids": prompt, "token_ids": ids, "logprobs": values}
    return _plain(record | {"temperature": _temperature(response, where)}, where, str(response.get("id", "")))


def _first(record: dict[str, Any], names: tuple[str, ...], where: str) -> Any:
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise ValueError(f"{where}: none of {', '.join(names)} in it; expected {EXPECTED}")


def _id(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where}: the token id {value!r}; expected an integer")
    return value


def _logprob(value: Any, token: int, where: str) -> float | None:
    """A number, or vLLM's object of ids with their logprobs."""
    if isinstance(value, dict):
        value = value.get(str(token), value.get("logprob"))
        value = value.get("logprob") if isinstance(value, dict) else value
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where}: the logprob {value!r}; expected a number, or null where there is none")
    return None if math.isnan(value) else float(value)


def _temperature(record: dict[str, Any], where: str) -> float | None:
    value = record.get("temperature")
    if value is None:
        value = (record.get("sampling_params") or {}).get("temperature")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{where}: temperature is {value!r}; expected a finite number, at least 0")
    return float(value)
