"""vLLM's row of the table in docs/testing_heads.md, made again: it is as far off as the page says, and as pure."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "| vLLM `compute_logprobs` |"


def cells(text):
    (row,) = [line for line in text.splitlines() if line.startswith(NAME)]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_row_of_vllm():
    command = [sys.executable, ROOT / "scripts/verdicts", "vLLM"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, page = cells(made), cells((ROOT / "docs/testing_heads.md").read_text())
    assert 0.4 < float(found[4]) / float(page[4]) < 2.5, found
    for of in ("purity", "weight update", "nan", "not above 0"):
        assert of not in found[2].split(", "), found
