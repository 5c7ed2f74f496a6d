"""What a class of Transformers does with its head, found out by experiment on tiny models."""

import itertools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tiny_model import NotBuilt, Run, Size, build, run
from torch import Tensor, nn

# Keys of a configuration that may change logits after the head.
TRANSFORM = re.compile(
    r"softcap|soft_cap|logits?_cap|logits?_scal|logit_mul|lm_head_|multiplier|mup|dim_model_base|temperature"
)
OF_OTHER_PARTS = re.compile(
    r"vision|audio|image|speech|codec|router|attn|attention|residual|embedding_mul|ssm|rope|layer_"
)
PROBES = (0.8125, 1.1875, 0.6875, 1.4375, 0.5625, 1.5625, 0.9375, 1.3125)  # times 8 for what may be a softcap


def effects(value: float) -> dict[str, Any]:
    return {
        "softcap": lambda z: value * torch.tanh(z / value),
        "scale": lambda z: z * value,
        "divide": lambda z: z / value,
    }


def close(logits: Tensor, wanted: Tensor, exact: bool) -> bool:
    """Whether they are the same but for rounding, of f64 or of a sum in f32."""
    if logits.shape != wanted.shape or not torch.isfinite(logits).all():
        return False
    return bool((logits - wanted).abs().max() <= (1e-11 if exact else 4e-6) * wanted.abs().max())


def flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for key, value in document.items():
        key = str(key)
        if isinstance(value, dict):
            paths |= flat(value, f"{prefix}{key}.")
        else:
            paths[prefix + key] = value
    return paths


def transform_keys(config: Any) -> dict[str, float | None]:
    """Candidates, with the class's own values."""
    keys = {}
    for path, value in flat(config.to_dict()).items():
        *outer, key = path.split(".")
        number = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        if number and TRANSFORM.search(key) and not OF_OTHER_PARTS.search(path):
            keys[path] = value
    return keys


def plain_logits(model: nn.Module, found: Run, bias: Tensor | None) -> Tensor:
    z = found.hidden.double() @ model.get_output_embeddings().weight.double().T
    return (z if bias is None else z + bias.double())[:, : found.logits.shape[1]]


def find_chain(plain: Tensor, found: Run, values: dict[str, float]) -> list[dict[str, str]] | None:
    """The steps, at most two, by which logits come from plain ones; None if there are none such."""
    steps = [(key, does, f) for key, value in values.items() for does, f in effects(value).items()]
    for length in range(3):
        for chain in itertools.permutations(steps, length):
            if len({key for key, _, _ in chain}) < length:
                continue
            z = plain
            for _, _, f in chain:
                z = f(z)
            if close(found.logits, z, found.exact):
                return [{"key": key, "does": does} for key, does, _ in chain]
    return None


class Class:
    """A model class with its size, and with text_type a text model of that type inside."""

    def __init__(self, model_class: type, size: Size, text_type: str | None) -> None:
        self.model_class, self.size, self.text_type = model_class, size, text_type

    def build(self, changes: dict[str, Any]) -> Any:
        return build(self.model_class, self.size, changes, self.text_type)

    def builds(self, changes: dict[str, Any]) -> bool:
        try:
            run(self.build(changes))
            return True
        except Exception:
            return False


def probes(made: Class, keys: dict[str, float | None]) -> dict[str, float]:
    """A value of its own for each key that may have another."""
    values = {path: PROBES[i % len(PROBES)] * (8 if "cap" in path else 1) for i, path in enumerate(keys)}
    if not values or made.builds(values):
        return values
    return {path: value for path, value in values.items() if made.builds({path: value})}


def bias_candidates(model: nn.Module, width: int) -> list[Tensor | None]:
    """What may be added to the logits: the head's own bias, nothing, or a tensor of that size elsewhere."""
    own = getattr(model.get_output_embeddings(), "bias", None)
    others = [tensor.reshape(-1) for tensor in [*model.parameters(), *model.buffers()]
              if tensor.numel() == width and tensor.is_floating_point() and tensor is not own]
    return ([own] if isinstance(own, Tensor) else []) + [None, *others]


def saved_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What save_pretrained writes: the tensors and config.json."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors: dict[str, Tensor] = {}
        for file in sorted(Path(folder).glob("*.safetensors")):
            tensors |= safetensors.torch.load_file(file)
        return tensors, json.loads((Path(folder) / "config.json").read_text())


def names_of(value: Tensor, tensors: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items()
            if tensor.numel() == value.numel() and tensor.shape[-1] == value.shape[-1]
            and torch.equal(tensor.reshape(value.shape).float(), value.detach().float())]


def tie_paths(config: Any) -> list[str]:
    return [path for path in flat(config.to_dict())
            if path.split(".")[-1] == "tie_word_embeddings" and not OF_OTHER_PARTS.search(path)]


def text_path(config: Any) -> str:
    """Where the configuration of the model that writes the text is: "" or "text_config."."""
    text = config.get_text_config(decoder=True)
    for name, value in config.to_dict().items():
        if isinstance(value, dict) and getattr(config, name, None) is text:
            return name + "."
    if text.model_type != config.model_type:
        raise NotBuilt("its configuration hides its text model")
    return ""  # itself, or a copy with the decoder's sizes


def key_of(document: dict[str, Any], prefix: str, names: list[str], value: int) -> str | None:
    """The first key with this value: of the names, then of any name, in the text model's object, then anywhere."""
    paths = flat(document)
    for path in [prefix + name for name in names] + names:
        if paths.get(path) == value:
            return path
    return None


def governing_key(made: Class, config: Any, prefix: str, width: int) -> str | None:
    """The key that says how many logits there are: the one whose change changes them."""
    paths = [path for path, value in flat(config.to_dict()).items() if value == width and not isinstance(value, bool)]
    likely = [path for path in paths if re.search(r"vocab|n_tokens|num_tokens", path)]

    def order(path: str) -> tuple[bool, bool, str]:
        return not path.startswith(prefix), path.split(".")[-1] != "vocab_size", path

    for path in sorted(likely, key=order):
        try:
            if run(made.build({path: width - 8})).logits.shape[1] == width - 8:
                return path
        except Exception:  # a class may check it against others
            continue
    return None


def tie_rule(made: Class, config: Any, prefix: str) -> dict[str, Any]:
    """The names of the head when it is the embedding and when it is not, and the key that says which."""
    paths = [path for path in tie_paths(config) if path in ("tie_word_embeddings", prefix + "tie_word_embeddings")]
    names: dict[tuple[bool, ...], str] = {}
    shared: dict[tuple[bool, ...], bool] = {}
    beside: set[str] = set()
    for flags in itertools.product((False, True), repeat=len(paths)):
        try:
            model = made.build(dict(zip(paths, flags, strict=True)))
            tensors, _ = saved_tensors(model)
        except Exception:
            continue
        found = sorted(names_of(model.get_output_embeddings().weight, tensors), key=lambda name: (len(name), name))
        if not found:
            raise NotBuilt("the weight of its head is not in what it saves")
        names[flags] = found[0]
        embedding = model.get_input_embeddings()
        shared[flags] = getattr(embedding, "weight", None) is model.get_output_embeddings().weight
        beside |= set(tensors)
    if not names:
        raise NotBuilt("it cannot be saved")
    untied, tied = names.get((False,) * len(paths)), names.get((True,) * len(paths))
    rule: dict[str, Any] = {"head": None, "embedding": None, "tie": None}
    if len(set(names.values())) == 1:
        only = next(iter(names.values()))
        rule["embedding" if all(shared.values()) else "head"] = only
        return {**rule, "beside": near(beside, rule)}
    for at, path in enumerate(paths):
        if all(name == (tied if flags[at] else untied) for flags, name in names.items()):
            rule |= {"head": untied, "embedding": tied, "tie": {"key": path, "default": flat(config.to_dict())[path]}}
            return {**rule, "beside": near(beside, rule)}
    raise NotBuilt(f"whether its head is tied depends on more than one key: {names}")


OTHER_NAMES = (
    "lm_head.weight", "language_model.lm_head.weight", "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight", "language_model.model.embed_tokens.weight",
    "language_model.embed_tokens.weight",
)


def older_names(made: Class, changes: dict[str, Any], name: str, prefix: str) -> list[str]:
    """Under which other names Transformers finds the same tensor when it loads a checkpoint."""
    model = made.build(changes)
    wanted = [name.removeprefix(model.base_model_prefix + ".")]
    if prefix:
        wanted += [other for other in OTHER_NAMES if ("lm_head" in other) == ("lm_head" in name)]
    weight = model.get_output_embeddings().weight.detach().clone()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = Path(folder) / "model.safetensors"
        tensors = safetensors.torch.load_file(file)
        for other in dict.fromkeys(wanted):
            if other in tensors or name not in tensors:
                continue
            renamed = {other if key == name else key: tensor for key, tensor in tensors.items()}
            safetensors.torch.save_file(renamed, file, metadata={"format": "pt"})
            try:
                loaded = made.model_class.from_pretrained(folder, dtype=torch.float32)
            except Exception:
                continue
            if torch.equal(loaded.get_output_embeddings().weight, weight):
                found.append(other)
    return found


def may_be_flat(config: Any, prefix: str) -> bool:
    """Whether the class takes the text model's keys from the outer object where there is no inner one."""
    document = {key: value for key, value in config.to_dict().items() if value is not None}
    inner = document.pop(prefix[:-1])
    try:
        text = type(config).from_dict({**inner, **document}).get_text_config(decoder=True)
    except Exception:
        return False
    own = config.get_text_config(decoder=True)
    return (text.vocab_size, text.hidden_size) == (own.vocab_size, own.hidden_size)


def near(names: set[str], rule: dict[str, Any]) -> list[str]:
    """The tensors where one that changes the head would be: inside of the head's or the embedding's module, beside
    them, and at the top."""
    roots = [""]
    for weight in (rule["head"], rule["embedding"]):
        if weight:
            module = weight.rpartition(".")[0]
            roots += [module + ".", module.rpartition(".")[0] + "." if "." in module else ""]
            roots.append(weight.partition(".")[0] + ".")

    def is_near(name: str) -> bool:
        return any(name.startswith(root) and name.removeprefix(root).count(".") <= 1 for root in roots)

    return sorted(name for name in names if is_near(name) and not any(part.isdigit() for part in name.split(".")))


def head_rules(made: Class) -> dict[str, Any]:
    """Everything that the table says of the class."""
    model = made.build({})
    config = model.config
    prefix = text_path(config)
    found = run(model)
    width = found.logits.shape[1]
    keys = transform_keys(config)
    defaults = flat(type(config)().to_dict() if made.text_type is None else config.to_dict())
    values = probes(made, keys)
    changed = made.build(values)
    measured = run(changed)
    for bias in bias_candidates(changed, width):
        chain = find_chain(plain_logits(changed, measured, bias), measured, values)
        if chain is not None:
            break
    else:
        raise NotBuilt("what it does to the logits after its head is no chain of a softcap and a scale")
    before = run(made.build({}))
    tensors, _ = saved_tensors(changed)
    rule = tie_rule(made, config, prefix)
    if rule["tie"] and run(made.build({rule["tie"]["key"]: True})).logits.shape[1] != width:
        rule |= {"embedding": None, "tie": None}  # the embedding has other rows than the head
    rule["bias"] = None
    if bias is not None:
        stored = sorted(names_of(bias, tensors), key=lambda name: (len(name), name))
        if not stored:
            raise NotBuilt("a bias of its logits is not in what it saves")
        rule["bias"] = stored[0]
    vocab = governing_key(made, config, prefix, width)
    if vocab is None:
        raise NotBuilt(f"no key of its configuration says that it has {width} logits")
    text = config.get_text_config(decoder=True)
    also = []
    for kind, tied in (("head", False), ("embedding", True)):
        if rule[kind] is not None:
            flags = {rule["tie"]["key"]: tied} if rule["tie"] else {}
            also += older_names(made, flags, rule[kind], prefix)
    hidden_names = ["hidden_size", text.attribute_map.get("hidden_size", "hidden_size"), "d_model", "embedding_size",
                    "n_embd", "emb_dim", "word_embed_proj_dim"]
    return {
        "model_type": config.model_type,
        "architecture": type(model).__name__,
        "text": prefix[:-1] or None,
        "text_type": text.model_type if prefix else None,
        "flat": bool(prefix) and may_be_flat(config, prefix),
        **rule,
        "also": sorted(set(also)),
        "vocab": vocab,
        "hidden": key_of(config.to_dict(), prefix, hidden_names, found.hidden.shape[1]),
        "transforms": [{**step, "default": defaults.get(step["key"])} for step in chain],
        "ignored": sorted(set(values) - {step["key"] for step in chain}),
        "input": before.before,
        "in_f64": measured.exact,
    }
