"""usage: make_table.py PART OF OUTPUT, then make_table.py merge OUTPUT...

Finds out by experiment what every class of the installed Transformers does with its head, and writes
src/io/families.json, which `isologit` and isologit.hf go by. The first form does every OF-th class, from the PART-th, so
that processors can share the work; the second merges what they wrote.
"""

import json
import sys
from pathlib import Path
from typing import Any

import transformers
from classes import cases, class_names, in_processes
from head_rules import Class, head_rules
from tiny_model import size_that_runs

TABLE = Path(__file__).resolve().parents[2] / "src/io/families.json"


def rules_of(name: str, text_type: str | None) -> dict[str, Any]:
    model_class = getattr(transformers, name)
    return head_rules(Class(model_class, size_that_runs(model_class, text_type), text_type))


def find(part: int, parts: int, output: Path) -> None:
    with output.open("w") as out:
        for (name, text_type), rules in in_processes(rules_of, cases(class_names())[part::parts]):
            out.write(json.dumps({"class": name, "with": text_type, **rules}) + "\n")
            out.flush()


def main() -> None:
    find(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))


if __name__ == "__main__":
    main()
