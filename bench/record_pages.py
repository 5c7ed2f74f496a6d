"""The pages that bench/record writes, from the data beside them: one a processor, and the tables of performance.md.

A record is one object: the machine; `by_record`, whether bench/record measured it; of what was carried over from
earlier pages `source`, what is known of it, and `notes`, the rest of those pages; and its parts, each with date,
commit, versions and runs.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from tables import (  # noqa: E402
    GRADIENTS_PEER,
    PEER,
    active_rows_text,
    bench_table,
    ceilings_text,
    crossovers_table,
    gradients_table,
    heads_table,
    kernels_table,
    ms_text,
    table,
)

TITLES = {
    "heads": "Beside other libraries",
    "kernels": "Every kernel",
    "everything": "All results of one pass",
    "scaling": "More rows, one thread",
    "softcap": "A head with a softcap",
    "outliers": "Outlier channels",
    "inactive": "Rows that are not asked for",
    "gradients": "Gradients",
}
SHAPES = {
    "qwen3-8b": "V = 151936, H = 4096",
    "qwen3-0.6b": "V = 151936, H = 1024",
    "gemma3-4b": "V = 262144, H = 2560, softcap 30",
}
BEGIN, END = "<!-- made by bench/record: begin -->", "<!-- made by bench/record: end -->"


def shape_text(result: dict) -> str:
    return SHAPES.get(result["shape"]) or "V = {}, H = {}".format(*result["shape"].split(","))


def of_peers(result: dict) -> str:
    reading = f" Reading the weight takes {ms_text(result['read_ms'])} ms." if "read_ms" in result else ""
    return (
        f"{shape_text(result)}, bf16: a whole scoring call, median ms; in brackets multiples of torch's bf16 pipeline."
        f"{reading}\n\n{heads_table(result)}"
    )


def of_bench(result: dict) -> str:
    outliers = f", outlier channels times {result['outliers']}" if result.get("outliers") else ""
    threads = f"{result['threads']} thread" + "s" * (result["threads"] > 1)
    return f"{shape_text(result)}{outliers}, {threads}. {ceilings_text(result)}\n\n{bench_table(result)}"


def of_kernels(result: dict) -> str:
    text = f"{shape_text(result)}: whole score by rows, median ms. {ceilings_text(result)}\n\n{kernels_table(result)}"
    if not result.get("crossovers"):
        return text
    return f"{text}\n\nAll tiles of logits of one block by a kernel alone, least ms:\n\n{crossovers_table(result)}"


def of_training(result: dict) -> str:
    what = "a mean loss and its gradients" if result["backward"] else "forward alone, and what is held to backward"
    left_out = "".join(
        f"\n\nLeft out: {one['name']}, {one['rows']} rows, which would take about {one['seconds']:.0f} s."
        for one in result["left_out"]
    )
    gradient = f" The weight's gradient is {result['gradient_mib']:.0f} MiB in bf16." if result["backward"] else ""
    return (
        f"{shape_text(result)}, bf16: {what}, median ms; in brackets multiples of torch's bf16.{gradient}\n\n"
        f"{gradients_table(result)}{left_out}"
    )


def of_inactive(result: dict) -> str:
    return f"{shape_text(result)}. {active_rows_text(result)}"


TABLES = {"peers": of_peers, "bench": of_bench, "kernels": of_kernels, "training": of_training, "inactive": of_inactive}


def about_part(part: dict) -> str:
    """Where and when; what a record that was carried over does not know is not told."""
    told = [part.get("date"), f"commit {part['commit']}" if part.get("commit") else None]
    told += [f"{name} {version}" for name, version in part.get("versions", {}).items()]
    told += [f"threads {part['threads']}"] if "threads" in part else []
    told += [f"load before {part['load']}"] if "load" in part else []
    return ", ".join(one for one in told if one)


def machine_text(machine: dict) -> str:
    """ "AMD EPYC (Zen 3), 2 processors" """
    return f"{machine['processor']}, {machine['processors']} processors"


def page(record: dict) -> str:
    machine = record["machine"]
    facts = [["processors", str(machine["processors"])]]
    if "memory_gib" in machine:
        facts.append(["memory", f"{machine['memory_gib']} GiB"])
    facts.append(["instruction sets", " ".join(machine["flags"])])
    facts.append(["measured by", "`bench/record`" if record["by_record"] else record["source"]])
    text = [f"# {machine_text(machine)}", table(facts, [machine["processor"], ""])]
    text.append("What the tables are, and other processors: [performance](../performance.md).")
    for name, part in record["parts"].items():
        text += [f"## {TITLES[name]}", about_part(part) + "."]
        text += [TABLES[run["kind"]](run["result"]) for run in part["runs"]]
    if "notes" in record:
        text.append("\n".join(record["notes"]))
    return "\n\n".join(text) + "\n"


def results(record: dict, part: str, kind: str, shape: str) -> list[dict]:
    """The lines of the first such run."""
    for run in record["parts"].get(part, {}).get("runs", []):
        if run["kind"] == kind and run["result"]["shape"] == shape:
            return run["result"]["results"]
    return []


def compare_heads(records: dict[str, dict]) -> str:
    rows = [1, 4, 16, 64, 256]
    names = ["isologit exact", "isologit fast", PEER, "torch linear_cross_entropy", "torch f32 pipeline"]
    cells = []
    for slug, record in records.items():
        lines = {(line["name"], line["rows"]): line["ms"] for line in results(record, "heads", "peers", "qwen3-8b")}
        title = f"[{machine_text(record['machine'])}](performance/{slug}.md)"
        for name in (name for name in names if any((name, count) in lines for count in rows)):
            row = [title, name]
            title = ""
            for count in rows:
                ms, peer = lines.get((name, count)), lines.get((PEER, count))
                row.append("" if ms is None else ms_text(ms) + (f" ({ms / peer:.2f})" if peer else ""))
            cells.append(row)
    return table(cells, ["processor", "rows", *map(str, rows)])


def compare_gradients(records: dict[str, dict]) -> str:
    cells = []
    for slug, record in records.items():
        lines = {
            line["name"]: line for line in results(record, "gradients", "training", "qwen3-0.6b") if line["rows"] == 256
        }
        title = f"[{machine_text(record['machine'])}](performance/{slug}.md)"
        for name, line in lines.items():
            row = [title, name]
            title = ""
            for key in ("forward_ms", "both_ms"):
                peer = lines.get(GRADIENTS_PEER, {}).get(key)
                known = key in line
                row.append(ms_text(line[key]) + (f" ({line[key] / peer:.2f})" if peer else "") if known else "")
            cells.append(row)
    return table(cells, ["processor", "256 rows, H = 1024", "forward", "forward and backward"])


def compare_ceilings(records: dict[str, dict]) -> str:
    """What the machines can do, and the floors' multiples that the best kernels reach there."""
    rows = [1, 4, 16, 64, 256]
    cells = []
    for slug, record in records.items():
        for run in record["parts"].get("heads", {}).get("runs", []):
            if run["kind"] != "bench":
                continue
            told = run["result"]
            title = f"[{machine_text(record['machine'])}](performance/{slug}.md)"
            reading = f"{told['read_gb_per_s']:.1f}"
            for kernel in told["kernels"]:
                shares = {line["rows"]: f"{line['ms'] / line['floor_ms']:.2f}" for line in told["results"]
                          if line["kernel"] == kernel["name"] and line["what"] == "score"}  # fmt: skip
                peak = f"{kernel['peak_gflop_per_s']:.0f}" if kernel["peak_gflop_per_s"] > 0 else ""
                cells.append([title, reading, f"`{kernel['name']}`", peak, *(shares.get(count, "") for count in rows)])
                title = reading = ""
    return table(cells, ["processor", "reads, GB/s", "kernel", "multiply-adds, GFLOP/s", *(f"{n} rows" for n in rows)])


def comparison(records: dict[str, dict]) -> str:
    return f"""{BEGIN}

### Heads

V = 151936, H = 4096, bf16 (the head of Qwen3-8B, 1.24 GB): median ms of a whole scoring call; in brackets multiples of
torch's bf16 pipeline.

{compare_heads(records)}

### Ceilings

What the machine reads, what a kernel multiplies out of registers, and the score of the same head as a multiple of the
floor that the two set.

{compare_ceilings(records)}

### Gradients

A mean loss of 256 rows and its gradients of hidden and weight, V = 151936, H = 1024, bf16: median ms; in brackets
multiples of torch's bf16.

{compare_gradients(records)}

{END}"""


def write_all(docs: Path) -> None:
    """Makes the page of each record in docs/performance, and their tables in docs/performance.md."""
    records = {file.stem: json.loads(file.read_text()) for file in sorted((docs / "performance").glob("*.json"))}
    for slug, record in records.items():
        (docs / "performance" / f"{slug}.md").write_text(page(record))
    overview = docs / "performance.md"
    text = overview.read_text() if overview.exists() else f"{BEGIN}\n{END}\n"
    overview.write_text(text[: text.index(BEGIN)] + comparison(records) + text[text.index(END) + len(END) :])
