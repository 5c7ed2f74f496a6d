#!/usr/bin/env python3
"""usage: page.py [--check]

Writes what src/io/families.json says into docs/checkpoints.md, between its two marks; with --check, fails if that is
not what the page says.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/checkpoints.md"
BEGIN, END = "<!-- from src/io/families.json -->\n", "<!-- end of families -->\n"
SIGNS = {"softcap": "softcap", "scale": "×", "divide": "÷"}

Family = dict[str, Any]


def code(text: str | None) -> str:
    return f"`{text}`" if text else "none"


def name_of(family: Family, own: dict[str, str]) -> str:
    """The class, and the text models inside of it unless they are its own."""
    types = family.get("text_types", [])
    others = [name for name in types if name != own.get(family["architecture"])]
    return f"`{family['architecture']}`" + (f" with {', '.join(others)}" if others else "")


def own_types(families: list[Family]) -> dict[str, str]:
    return {family["architecture"]: family["text_types"][0] for family in reversed(families) if "text_types" in family}


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def steps(families: list[Family], own: dict[str, str]) -> str:
    rows = []
    for family in families:
        for at, step in enumerate(family.get("transforms", []), start=1):
            default = "not applied" if step["default"] is None else f"{step['default']:.10g}"
            order = f"{at}. " if len(family["transforms"]) > 1 else ""
            rows.append([name_of(family, own), f"`{step['key']}`", order + SIGNS[step["does"]], default])
    return table(["class", "key", "what it does", "when absent"], rows)


def ignored(families: list[Family], own: dict[str, str]) -> str:
    rows = defaultdict(list)
    for family in families:
        for key in family.get("ignored", []):
            rows[key].append(name_of(family, own))
    return table(["key", "classes"], [[f"`{key}`", ", ".join(names)] for key, names in sorted(rows.items())])


def tensors(families: list[Family], own: dict[str, str]) -> str:
    rows = defaultdict(list)
    for family in families:
        key = "" if family["vocab"].split(".")[-1] == "vocab_size" else f", `{family['vocab']}` logits"
        rows[family.get("head"), family.get("embedding"), family.get("bias")].append(name_of(family, own) + key)
    return table(
        ["head", "embedding", "bias", "classes"],
        [[code(part) for part in parts] + [", ".join(dict.fromkeys(names))]
         for parts, names in sorted(rows.items(), key=lambda row: -len(row[1]))])


def text(document: dict[str, Any]) -> str:
    families = document["families"]
    own = own_types(families)
    classes = sorted({family["architecture"] for family in families})
    elsewhere = sorted({f"`{family['architecture']}`" for family in families if family["input"] != "last_hidden_state"})
    why = defaultdict(list)
    for entry in document["refused"]:
        why[entry["why"]].append(f"`{entry['architecture']}`")
    return f"""
Of Transformers {document["transformers"]}: {len(classes)} classes are known, {len(document["refused"])} are refused.

### What classes do to their logits

{steps(families, own)}
### Keys that do nothing to the logits

Keys of this kind that a class has and does not apply after its head. A text model that applies one by itself may stand
in a wrapper that does not; other implementations of the same checkpoint may apply it. The logits that the class of
Transformers makes are the reference here.

{ignored(families, own)}
### Classes whose head is not given the last hidden state

Between `last_hidden_state` of the body and the head they have a step of their own, a scale or a layer. The rows to
score are those that the head's module is given:

{", ".join(elsewhere)}.

### Tensors

{tensors(families, own)}
### Refused

{table(["why", "classes"], [[reason, ", ".join(names)] for reason, names in sorted(why.items())])}
"""


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    document = json.loads((ROOT / "src/io/families.json").read_text(encoding="utf-8"))
    wanted = before + BEGIN + text(document) + END + after
    if "--check" not in sys.argv:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if page == wanted:
        return 0
    print("docs/checkpoints.md is not what src/io/families.json says: run tests/checkpoints/page.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
