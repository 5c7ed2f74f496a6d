"""usage: sweep.py ISOLOGIT [--part I --of N | --most-used] [CLASS...]

Builds a tiny random model of each class of the installed Transformers, saves it, gives its head random rows, scores the
same rows by the command ISOLOGIT, and compares with the logits that the model made of them. Each class is tried in
several ways: as it is, with its numbers changed, with keys left to the class, with the head tied and not. The last line
says how many classes are right, refused, wrong and not built; the exit status is 1 if one is wrong, or too few are
right.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from classes import MOST_USED, cases, class_names, in_processes
from head_rules import Class, probes, text_path, tie_paths, transform_keys
from tiny_model import Run, in_words, run, size_that_runs

LEAST = 300  # classes that must be right, of all
UNIT = 2.0**-24  # half a step of f32, of 1


class Wrong(Exception):
    pass


class Refused(Exception):
    pass


def variants(made: Class, config: Any) -> dict[str, dict[str, Any]]:
    """Changes of the configuration, by what they are for."""
    found: dict[str, dict[str, Any]] = {"as it is": {}}
    prefix = text_path(config)
    paths = [path for path in tie_paths(config) if path in ("tie_word_embeddings", prefix + "tie_word_embeddings")]
    for flag in (False, True):
        found[f"tied: {flag}"] = dict.fromkeys(paths, flag)
    if len(paths) == 2:
        found["tied outside"] = {paths[0]: True, paths[1]: False}
        found["tied inside"] = {paths[0]: False, paths[1]: True}
    if numbers := probes(made, transform_keys(config)):
        found["numbers"] = numbers
    return found


def command(isologit: str, *arguments: str | Path) -> str:
    """What the command writes to standard output; Refused, with its message, if it fails."""
    done = subprocess.run([isologit, *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise Refused(done.stderr.strip())
    return done.stdout


def logits_by(isologit: str, folder: Path, hidden: torch.Tensor) -> torch.Tensor:
    safetensors.torch.save_file({"hidden_states": hidden.contiguous()}, folder / "rows.input")
    command(isologit, "logits", folder / "model", "--input", folder / "rows.input", "--output",
            folder / "logits.output", "--threads", "1")
    return safetensors.torch.load_file(folder / "logits.output")["logits"]


def compare(isologit: str, folder: Path, found: Run) -> None:
    logits = logits_by(isologit, folder, found.hidden).double()
    if logits.shape != found.logits.shape:
        raise Wrong(f"{logits.shape[1]} logits, and the model has {found.logits.shape[1]}")
    # At most three roundings of the library's, each of a number not much larger; a sum in f32 has one for each term.
    roundings = 4 if found.exact else 4 + found.hidden.shape[1]
    bound = roundings * UNIT * found.logits.abs().amax(-1, keepdim=True).clamp(min=32.0)
    off = (logits - found.logits).abs()
    if not bool((off <= bound).all()):
        raise Wrong(f"a logit is off by {off.max().item():.3g}")


def without_class_values(document: dict[str, Any], config: Any) -> dict[str, Any]:
    """config.json without those keys that change logits and have the value of the class."""
    kept = json.loads(json.dumps(document))
    for path in transform_keys(config):
        *outer, key = path.split(".")
        place = kept
        for name in outer:
            place = place.get(name, {})
        place.pop(key, None)
    return kept


def try_variant(isologit: str, made: Class, changes: dict[str, Any], leave_out: bool) -> None:
    model = made.build(changes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "model")
        config = model.config
        found = run(model)
        if leave_out:
            file = folder / "model/config.json"
            file.write_text(json.dumps(without_class_values(json.loads(file.read_text()), config)))
        compare(isologit, folder, found)


def check(isologit: str, name: str, text_type: str | None) -> dict[str, Any]:
    """What came of the class: "right", "refused", "wrong" or "not built", why, and how many ways were tried."""
    model_class = getattr(transformers, name)
    try:
        made = Class(model_class, size_that_runs(model_class, text_type), text_type)
        config = made.build({}).config
        ways = variants(made, config)
    except Exception as error:
        return {"is": "not built", "why": in_words(error)}
    done, refusals = 0, []
    for what, changes in [*ways.items(), ("keys left out", {})]:
        try:
            try_variant(isologit, made, changes, what == "keys left out")
            done += 1
        except Refused as refusal:
            refusals.append(f"{what}: {refusal}")
        except Wrong as wrong:
            return {"is": "wrong", "why": f"{what}: {wrong}"}
        except Exception as error:  # this variant cannot be built
            if what == "as it is":
                return {"is": "not built", "why": in_words(error)}
    if refusals:  # in one way, then the class is
        return {"is": "refused", "why": refusals[0]}
    return {"is": "right", "ways": done}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("isologit")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--most-used", action="store_true")
    parser.add_argument("classes", nargs="*")
    arguments = parser.parse_args()
    names = arguments.classes or (list(MOST_USED) if arguments.most_used else class_names())
    wanted = [(arguments.isologit, *case) for case in cases(names)[arguments.part :: arguments.of]]
    if arguments.most_used:
        wanted = [case for case in wanted if case[2] is None]
    counts = {"right": 0, "refused": 0, "wrong": 0, "not built": 0}
    for (_, name, text_type), result in in_processes(check, wanted):
        outcome = result.get("is", "not built")
        counts[outcome] += 1
        title = f"{name} with {text_type}" if text_type else name
        print(f"{outcome:9} {title} {result.get('why', result.get('not', ''))}".rstrip(), flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    least = len(wanted) if arguments.most_used else 0 if arguments.classes else LEAST // arguments.of
    sys.exit(1 if counts["wrong"] or counts["right"] < least else 0)


if __name__ == "__main__":
    main()
