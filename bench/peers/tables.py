"""What the programs beside this one measured, and `isologit bench --json`, as tables in Markdown."""

from tabulate import tabulate

PEER = "torch bf16 pipeline"
GRADIENTS_PEER = "torch bf16, materialising"


def table(rows: list[list[str]], titles: list[str]) -> str:
    return tabulate(rows, titles, "github", disable_numparse=True)


def ms_text(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


def heads_table(result: dict) -> str:
    """Of peers.measure: median ms, and in brackets the time as a multiple of PEER."""
    names = list(dict.fromkeys(line["name"] for line in result["results"]))
    rows = list(dict.fromkeys(line["rows"] for line in result["results"]))
    times = {(line["name"], line["rows"]): line["ms"] for line in result["results"]}

    def cell(name: str, count: int) -> str:
        ms, peer = times.get((name, count)), times.get((PEER, count))
        return "" if ms is None else f"{ms_text(ms)} ({ms / peer:.2f})" if peer else ms_text(ms)

    return table([[name, *(cell(name, count) for count in rows)] for name in names], ["rows", *map(str, rows)])


def gradients_table(result: dict) -> str:
    """Of training.measure: median ms, and in brackets multiples of GRADIENTS_PEER."""
    times = {"forward_ms": "forward", "both_ms": "forward and backward"}
    times = {key: title for key, title in times.items() if any(key in line for line in result["results"])}
    errors = any("errors" in line for line in result["results"])
    titles = ["rows", "", *times.values(), "peak MiB", *(["error of dhidden", "of dweight"] if errors else [])]
    peers = {line["rows"]: line for line in result["results"] if line["name"] == GRADIENTS_PEER}
    cells = []
    for line in result["results"]:
        peer = peers.get(line["rows"], {})
        row = [str(line["rows"]), line["name"]]
        for key in times:
            ratio = f" ({line[key] / peer[key]:.2f})" if key in line and key in peer else ""
            row.append(ms_text(line[key]) + ratio if key in line else "")
        row.append(f"{line['peak_mib']:.0f}" if "peak_mib" in line else "")
        cells.append([*row, *(f"{share:.1e}" for share in line.get("errors", []))])
    return table(cells, titles)


def active_rows_text(result: dict) -> str:
    """Of active_rows.measure, a sentence for each share."""
    lines = []
    for line in result["results"]:
        whole = result.get("all_seconds")
        lines.append(
            f"{line['active']} active of {result['rows']}: {line['seconds']:.3g} s; a call of those alone "
            f"{line['alone_seconds']:.3g} s" + (f"; all rows {whole:.3g} s." if whole else ".")
        )
    return "\n".join(lines)


def bench_table(result: dict) -> str:
    """Of `isologit bench --json`: a line for each kernel and number of rows, the ms of each call beside one another."""
    calls = list(dict.fromkeys(line["what"] for line in result["results"]))
    lines: dict[tuple, dict] = {}
    for line in result["results"]:
        lines.setdefault((line["kernel"], line["rows"]), {})[line["what"]] = line
    cells = []
    for (kernel, rows), of in lines.items():
        last = of[calls[-1]]
        cells.append([
            str(rows), f"`{kernel}`", *(ms_text(of[call]["ms"]) for call in calls), f"{last['gb_per_s']:.1f}",
            f"{last['gflop_per_s']:.0f}", f"{last['ms'] / last['floor_ms']:.2f}",
        ])  # fmt: skip
    return table(cells, ["rows", "kernel", *(f"{call}, ms" for call in calls), "GB/s", "GFLOP/s", "times the floor"])


def kernels_table(result: dict) -> str:
    """The same, a line a kernel: ms by rows."""
    rows = list(dict.fromkeys(line["rows"] for line in result["results"]))
    kernels = list(dict.fromkeys(line["kernel"] for line in result["results"]))
    times = {(line["kernel"], line["rows"]): line["ms"] for line in result["results"]}
    cells = [[f"`{kernel}`", *(ms_text(times[kernel, count]) for count in rows)] for kernel in kernels]
    return table(cells, ["rows", *map(str, rows)])


def crossovers_table(result: dict) -> str:
    """Of `isologit bench --crossovers --json`: the least ms of all tiles by rows, and where kernels cross."""
    told = result["crossovers"]
    cells = [[f"`{one['kernel']}`", *map(ms_text, one["ms"]), str(one["faster_than_next_from"] or ""),
              str(one["chosen_from"])] for one in told]  # fmt: skip
    return table(cells, ["rows", *map(str, told[0]["rows"]), "faster than the next from", "chosen from"])


def ceilings_text(result: dict) -> str:
    """What `isologit bench` found the machine able to do."""
    if "read_gb_per_s" not in result:
        return ""
    peaks = [f"{one['peak_gflop_per_s']:.0f} GFLOP/s (`{one['name']}`)" for one in result["kernels"]
             if one["peak_gflop_per_s"] > 0]  # fmt: skip
    text = f"Memory reads at {result['read_gb_per_s']:.1f} GB/s"
    return text + (f"; multiply-adds alone reach {', '.join(peaks)}." if peaks else ".")
