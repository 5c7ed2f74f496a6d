"""isologit audit: what the command hands over to."""

import argparse
import importlib.util
import json
import math
import os
import sys
from typing import Any

from isologit._outputs import check_destination, say, told, written


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="isologit audit", description="Where the difference of a rollout's and a trainer's logprobs comes from."
    )
    parser.add_argument("model", metavar="MODEL", help="a checkpoint of Transformers: a directory, or a cached id")
    parser.add_argument("--rollouts", metavar="FILE", required=True, help="JSON lines, JSON or Parquet")
    parser.add_argument("--captured", metavar="FILE", help="hidden states of the same rollouts, by isologit capture")
    parser.add_argument(
        "--temperature", type=_temperature, metavar="T", help="of the reported logprobs (default: the file's)"
    )
    dtypes = ("bfloat16", "float16", "float32")
    parser.add_argument("--dtype", choices=dtypes, help="the trainer's (default: as stored)")
    parser.add_argument("--device", default="cpu", help="the trainer's (default: cpu)")
    parser.add_argument("--forward", action="store_true", help="measure isologit's whole forward pass too (slow)")
    parser.add_argument("--report", metavar="OUT.html", help="a page with pictures")
    parser.add_argument("--json", action="store_true", help="all of it, every token's exact parts among them")
    asked = parser.parse_args(arguments)
    asked.given = sys.argv[2:] if arguments is None else arguments
    needed = ["transformers"] + ["matplotlib"] * (asked.report is not None)
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        sys.exit(f"isologit: audit needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    try:
        _run(asked)
    except (OSError, ValueError, NotImplementedError, ModuleNotFoundError) as error:
        sys.exit(f"isologit: {told(error)}")


def _temperature(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{number}; expected a finite number above 0")
    return number


def _run(asked: argparse.Namespace) -> None:
    """All that can be told without the model is told before it is loaded."""
    from isologit import _captured, _devices
    from isologit.audit import _report, _rollouts, of_rollouts

    inputs = [asked.rollouts, *([] if asked.captured is None else _captured.shards(asked.captured))]
    report = None if asked.report is None else check_destination("--report", asked.report, inputs, asked.model)
    read = _rollouts.read(asked.rollouts)
    captured = None if asked.captured is None else _captured.read(asked.captured)
    _devices.check(asked.device)
    model, tokenizer = _load(asked)
    options = {"tokenizer": tokenizer, "temperature": asked.temperature, "forward": asked.forward}
    result = of_rollouts(model, read, captured, **options)
    with written(report, "" if report is None else _report.page(result, " ".join(["isologit audit", *asked.given]))):
        say(json.dumps(result, indent=1) if asked.json else _text(result))


def _load(asked: argparse.Namespace) -> tuple[Any, Any]:
    """The model and its tokenizer; None for one that cannot be loaded: words are a convenience. An id is looked up
    in the local cache alone, as by the command's other verbs."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = _folder(asked.model)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=asked.dtype or "auto").to(asked.device).eval()
    except Exception as error:  # whatever is wrong with the checkpoint
        raise ValueError(f"{asked.model}: Transformers does not load it: {type(error).__name__}: {error}") from None
    model.config.name_or_path = asked.model
    try:
        return model, AutoTokenizer.from_pretrained(folder)
    except Exception:
        return model, None


def _folder(model: str) -> str:
    """(Of an id Transformers asks the network even where it is told to load local files only.)"""
    from huggingface_hub import constants, try_to_load_from_cache

    if os.path.isdir(model):
        return model
    try:
        found = try_to_load_from_cache(model, "config.json")
    except ValueError:  # no id
        found = None
    if isinstance(found, str):
        return os.path.dirname(found)
    raise ValueError(
        f'there is no directory "{model}", and no such model in the Hugging Face cache "{constants.HF_HUB_CACHE}"; to '
        f"download it: hf download {model}"
    )


def _text(result: dict) -> str:
    from isologit.audit._report import PARTS

    measures, flips = result["measures"], result["greedy_flips"]
    lines = [
        f"  {measures['tokens']} tokens of {result['rollouts']} rollouts, trainer in {result['trainer_dtype']}",
        f"  |reported - trainer|   mean {measures['mean_abs']:.3g}, RMS {measures['rms']:.3g}, "
        f"max {measures['max_abs']:.3g}",
        f"  KL of the mismatch     k1 {measures['k1']:.3g}, k2 {measures['k2']:.3g}, k3 {measures['k3']:.3g}",
        f"  ratios outside         [0.9, 1.1] {100 * measures['ratios_outside_0.9_1.1']:.3g} %, "
        f"[0.8, 1.2] {100 * measures['ratios_outside_0.8_1.2']:.3g} %",
        *[f"  greedy flips           {flips} of {measures['tokens']}"] * (flips is not None),
        "",
        f"  {'part':36} {'mean':>10} {'mean size':>10} {'max size':>10}",
    ]
    for name, one in result["decomposition"].items():
        label = PARTS.get(name, "reported - trainer")
        lines.append(f"  {label:36} {one['mean']:10.2e} {one['mean_abs']:10.2e} {one['max_abs']:10.2e}")
    if not result["captured"]:
        lines.append("  (without captured states the rollout's head and body cannot be told apart: isologit capture)")
    lines += ["", f"  {'what would be left':36} {'mean size':>10} {'RMS':>10} {'max size':>10}"]
    for one in result["remedies"]:
        lines.append(f"  {one['remedy']:36} {one['mean_abs']:10.2e} {one['rms']:10.2e} {one['max_abs']:10.2e}")
    lines.append("")
    for one in result["mistakes"]:
        left = f"RMS {one['rms']:.3g}, {one['rms_left']:.3g} without it"
        lines.append(f"  mistake: {one['mistake']}: {one['what']}; {left}")
    if not result["mistakes"]:
        lines.append("  no mistake that would explain the data was found")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
