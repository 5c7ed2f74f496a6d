"""usage: make_table.py PART OF OUTPUT, then make_table.py merge OUTPUT...

Finds out by experiment what every class of the installed Transformers does with its head, and writes
src/io/families.json, which `isologit` and isologit.hf go by. The first form does every OF-th class, from the PART-th,
so that processors can share the work; the second merges what they wrote.
"""

import json
import sys
from pathlib import Path
from typing import Any

import transformers
from classes import cases, class_names, in_processes
from head_rules import Class, head_rules
from tiny_model import size_that_runs

# What classes that come as code with their checkpoints do to logits.
FOREIGN_KEYS = [
    "mup_width_multiplier", "output_multiplier_scale", "output_multiplier", "lm_head_multiplier",
    "logits_mup_width_multiplier", "unpadded_vocab_size", "norm_head",
]
TABLE = Path(__file__).resolve().parents[2] / "src/io/families.json"


def rules_of(name: str, text_type: str | None) -> dict[str, Any]:
    model_class = getattr(transformers, name)
    return head_rules(Class(model_class, size_that_runs(model_class, text_type), text_type))


def find(wanted: list[tuple[str, str | None]], output: Path) -> None:
    with output.open("w") as out:
        for (name, text_type), rules in in_processes(rules_of, wanted):
            out.write(json.dumps({"class": name, "with": text_type, **rules}) + "\n")
            out.flush()


def default_vocab_size(model_type: str) -> int | None:
    try:
        return getattr(transformers.CONFIG_MAPPING[model_type](), "vocab_size", None)
    except Exception:  # a model_type that only exists inside of others
        return None


def why_not(rules: dict[str, Any]) -> str | None:
    """What of the rules isologit has no place for."""
    if "not" in rules:
        return "no tiny model of it could be built to find out what it does" if rules["built"] else rules["not"]
    scales = sum(step["does"] != "softcap" for step in rules["transforms"])
    if scales > 1 or len(rules["transforms"]) - scales > 1:
        return f"it has more steps than one softcap and one scale: {', '.join(s['key'] for s in rules['transforms'])}"
    return None


def merge(found: list[dict[str, Any]]) -> dict[str, Any]:
    found = list({(rules["class"], rules["with"]): rules for rules in found}.values())  # the last of each
    refused, families = [], {}
    known = [rules for rules in found if why_not(rules) is None]
    step_keys = {step["key"].split(".")[-1] for rules in known for step in rules["transforms"]} | set(FOREIGN_KEYS)
    sizes: dict[str, int | None] = {}
    seen: set[tuple[str, str, str | None]] = set()
    for rules in sorted(found, key=lambda rules: rules["with"] is not None):  # a class's own text model first
        why = why_not(rules)
        if why is not None:
            if rules["with"] is None:
                model_type = getattr(transformers, rules["class"]).config_class.model_type
                refused.append({"model_type": model_type, "architecture": rules["class"], "why": why})
            continue
        covered = (rules["architecture"], rules["model_type"], rules["text_type"])
        if covered in seen:  # its own text model, once more by name
            continue
        seen.add(covered)
        holder = rules["text_type"] if "." in rules["vocab"] else rules["model_type"]
        sizes[holder] = default_vocab_size(holder)
        family = {key: rules[key] for key in ("model_type", "architecture", "text", "flat", "head", "embedding", "also",
                                              "tie", "bias", "vocab", "hidden", "transforms", "input")}
        family["ignored"] = [key for key in rules["ignored"] if key.split(".")[-1] in step_keys]
        family["beside"] = rules["beside"]
        same = families.setdefault(json.dumps(family, sort_keys=True), {**family, "text_types": []})
        if rules["text_type"] and rules["text_type"] not in same["text_types"]:
            same["text_types"].append(rules["text_type"])

    def order(entry: dict[str, Any]) -> tuple[str, str]:
        return entry["model_type"], entry["architecture"]

    return {
        "transformers": transformers.__version__,
        "families": sorted(families.values(), key=order),
        "refused": sorted(refused, key=order),
        "foreign_keys": FOREIGN_KEYS,
        "vocab_sizes": {name: size for name, size in sorted(sizes.items()) if isinstance(size, int)},
    }


def in_lines(table: dict[str, Any]) -> str:
    """JSON with a line for each family, without what is empty."""

    def line(entry: dict[str, Any]) -> str:
        return "  " + json.dumps({key: value for key, value in entry.items() if value not in (None, [], False)})

    parts = [f'"transformers": {json.dumps(table["transformers"])}']
    for name in ("families", "refused"):
        parts.append(f'"{name}": [\n' + ",\n".join(line(entry) for entry in table[name]) + "\n]")
    parts.append(f'"foreign_keys": {json.dumps(table["foreign_keys"])}')
    parts.append(f'"vocab_sizes": {json.dumps(table["vocab_sizes"])}')
    return "{" + ",\n".join(parts) + "}\n"


def main() -> None:
    if sys.argv[1] == "merge":
        found = [json.loads(line) for name in sys.argv[2:] for line in Path(name).read_text().splitlines()]
        TABLE.write_text(in_lines(merge(found)))
    else:
        find(cases(class_names())[int(sys.argv[1]) :: int(sys.argv[2])], Path(sys.argv[3]))


if __name__ == "__main__":
    main()
