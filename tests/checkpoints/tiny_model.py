"""Tiny models of Transformers with random weights, and what they make of the rows that their head is given."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from tiny_config import SPECIAL, VOCAB, tiny_config
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

MOST_PARAMETERS = 100_000_000


class Size(NamedTuple):
    how: str
    layers: int
    derived: bool


SIZES = [Size("even", 2, False), Size("even", 2, True), Size("divided", 2, False), Size("divided", 2, True),
         Size("headed", 2, False), Size("headed", 2, True), Size("even", 6, False), Size("divided", 8, False)]


class NotBuilt(Exception):
    pass


def set_key(config: Any, path: str, value: Any) -> None:
    *outer, key = path.split(".")
    for name in outer:
        config = getattr(config, name)
    setattr(config, key, value)


def build(model_class: type, size: Size, changes: dict[str, Any], text_type: str | None = None) -> Any:
    """A model of the class, in f32. `changes` are set in its configuration."""

    def configuration() -> Any:
        config = tiny_config(model_class.config_class, size.how, size.layers, text_type, size.derived)
        for path, value in changes.items():
            set_key(config, path, value)
        return config

    with torch.device("meta"):
        parameters = sum(p.numel() for p in model_class(configuration()).parameters())
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"it has {parameters} parameters")
    torch.manual_seed(1)
    model = model_class(configuration()).eval().float()
    if model.get_output_embeddings() is None:
        raise NotBuilt("it has no output head")
    scatter(model)
    return model


def scatter(model: nn.Module) -> None:
    """Random values for the head and for everything near it, of which classes make zeros or ones."""
    head = model.get_output_embeddings()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            few = sum(1 for part in name.split(".")) <= 3 and not any(part.isdigit() for part in name.split("."))
            if tensor.is_floating_point() and tensor.dim() >= 1 and few and name.endswith("bias"):
                tensor.normal_()
        for parameter in head.parameters():
            parameter.normal_(std=0.5 if parameter.dim() == 2 else 1.0)


@dataclass
class Run:
    hidden: Tensor  # [N, H] f32: what the head was given
    logits: Tensor  # [N, V] f64: what the model made of it
    exact: bool  # whether the model computed in f64
    before: str  # what its input is: "last_hidden_state" of the body, or "other"


def token_ids() -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(SPECIAL, VOCAB - 20, (1, 6), generator=generator)


def image_size(config: Any) -> int:
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    return size if isinstance(size, int) else 32


def input_candidates(model: nn.Module) -> list[dict[str, Any]]:
    config, ids = model.config, token_ids()
    text = config.get_text_config(decoder=True)
    width = getattr(text, "hidden_size", 64)
    encoder_width = getattr(getattr(config, "encoder", None), "hidden_size", width)
    mels = getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", None) or 80
    audio = torch.randn(1, mels, 2 * (getattr(config, "max_source_positions", None) or 50))
    picture = torch.randn(1, 3, image_size(config), image_size(config))
    encoded = BaseModelOutput(last_hidden_state=torch.randn(1, 5, encoder_width))
    return [
        {"input_ids": ids},
        {"input_ids": ids, "use_cache": False},
        {"input_ids": ids, "return_dict": False},
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False},
        {"input_ids": ids, "decoder_input_ids": ids},
        {"encoder_outputs": encoded, "decoder_input_ids": ids},
        {"encoder_outputs": (encoded.last_hidden_state,), "decoder_input_ids": ids},
        {"input_features": audio, "decoder_input_ids": ids},
        {"input_features": audio.mT, "decoder_input_ids": ids},
        {"input_features": audio.mT, "attention_mask": torch.ones(1, audio.shape[-1]), "decoder_input_ids": ids},
        {"input_values": torch.randn(1, 4000), "decoder_input_ids": ids},
        {"pixel_values": picture, "input_ids": ids},
        {"pixel_values": picture, "input_ids": ids, "qformer_input_ids": ids % 20},
        {"pixel_values": picture[:, None], "input_ids": ids, "qformer_input_ids": ids % 20},
        {"pixel_values": picture, "decoder_input_ids": ids},
        {"pixel_values": picture, "input_ids": ids, "decoder_input_ids": ids},
        {"pixel_values": picture[:, None], "input_ids": ids},
        {"image_embeds": torch.randn(1, 4, width), "input_ids": ids},
        {"inputs_embeds": torch.randn(1, 6, width)},
    ]


def in_type(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(dtype) if value.is_floating_point() else value
        if isinstance(value, tuple):
            return tuple(convert(item) for item in value)
        return type(value)(**{key: convert(item) for key, item in value.items()}) if hasattr(value, "keys") else value

    return {name: convert(value) for name, value in inputs.items()}


def logits_of(output: Any, rows: int) -> Tensor:
    if isinstance(output, tuple):
        found = output[0]
        if found.numel() // found.shape[-1] == rows:
            return found.reshape(rows, -1)
    for name in ("logits", "prediction_logits", "lm_logits"):
        found = getattr(output, name, None)
        if isinstance(found, Tensor):
            break
    else:
        raise NotBuilt(f"its output has no logits: {', '.join(output.keys())}")
    if found.numel() % rows or found.numel() // found.shape[-1] != rows:
        raise NotBuilt(f"its head is given {rows} rows and its logits have shape {list(found.shape)}")
    return found.reshape(rows, -1)


def run_once(model: nn.Module, inputs: dict[str, Any]) -> Run:
    """Runs the model twice: as it is, to see what its head is given, and with random rows in the place of that."""
    head = model.get_output_embeddings()
    seen: dict[str, list[Any]] = {"body": [], "head": []}
    random = torch.Generator().manual_seed(5)

    def note_body(module: nn.Module, arguments: Any, output: Any) -> None:
        seen["body"].append(output[0] if isinstance(output, (tuple, list)) or hasattr(output, "keys") else output)

    def replace(module: nn.Module, arguments: Any, named: Any) -> Any:
        given = arguments[0] if arguments else next(iter(named.values()))
        seen["head"].append(given)
        rows = torch.randn(given.shape, generator=random)
        seen["rows"] = rows
        return ((rows.to(given.dtype), *arguments[1:]), named) if arguments else ((rows.to(given.dtype),), {})

    body = model.base_model
    hooks = [head.register_forward_pre_hook(replace, with_kwargs=True)]
    if body is not model:
        hooks.append(body.register_forward_hook(note_body))
    try:
        with torch.no_grad():
            output = model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen["head"]:
        raise NotBuilt("its head is not called")
    if len(seen["head"]) > 1:
        raise NotBuilt(f"its head is called {len(seen['head'])} times")
    rows = seen["rows"].reshape(-1, seen["rows"].shape[-1])
    logits = logits_of(output, rows.shape[0])
    given = seen["head"][0]
    same = any(isinstance(b, Tensor) and b.shape == given.shape and torch.equal(b, given) for b in seen["body"])
    return Run(rows, logits.double(), logits.dtype == torch.float64, "last_hidden_state" if same else "other")


def in_words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, NotBuilt) else f"{type(error).__name__}: {text}"[:300]


def run(model: nn.Module) -> Run:
    """In f64 where the class can, else in f32."""
    reasons: list[Exception] = []
    for inputs in input_candidates(model):
        try:
            run_once(model, inputs)
            break
        except Exception as error:  # whatever a class says of inputs that are not its own
            reasons.append(error)
    else:
        own = [reason for reason in reasons if isinstance(reason, NotBuilt)]
        raise (own or reasons)[0]
    try:
        return run_once(model.double(), in_type(inputs, torch.float64))
    except Exception:
        return run_once(model.float(), inputs)


def size_that_runs(model_class: type, text_type: str | None = None) -> Size:
    """The first of SIZES with which a model of the class can be built and run; else an error that says why not."""
    reasons: list[Exception] = []
    for size in SIZES:
        try:
            run(build(model_class, size, {}, text_type))
            return size
        except Exception as error:  # whatever a class says of a configuration that it was not made for
            reasons.append(error)
    own = [reason for reason in reasons if isinstance(reason, NotBuilt)]
    raise (own or reasons)[0]
