"""The report: one page of HTML that opens without a network. The pictures are matplotlib's, embedded."""

import base64
import html
import io
from typing import Any

PARTS = {
    "rollout_head": "rollout head's error",
    "body": "body difference",
    "unsplit": "rollout's head and body, not split",
    "trainer_head": "trainer head's error",
}


def page(result: dict[str, Any], command: str = "") -> str:
    """command: what it was made by, where that was one."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ModuleNotFoundError("the report's pictures need matplotlib: pip install matplotlib") from None
    tokens = result["tokens"]
    pictures = []
    for title, draw in _PICTURES.items():
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        draw(figure.add_subplot(), result, tokens)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
        encoded = base64.b64encode(content.getvalue()).decode()
        pictures.append(
            f'<figure><figcaption>{html.escape(title)}</figcaption><img alt="{html.escape(title)}" '
            f'src="data:image/png;base64,{encoded}"></figure>'
        )
    return _page(result, pictures, command)


def _parts(ax, result, tokens) -> None:
    """Signed means by position: they add up, as means of sizes do not."""
    names = [name for name in PARTS if name in result["decomposition"]]
    groups = [(one["from"], one["to"]) for one in result["by_position"]]
    above, below = [0.0] * len(groups), [0.0] * len(groups)
    for name in names:
        means = []
        for low, high in groups:
            own = [_number(t["exactly"][name]) for t in tokens if low <= t["position"] - 1 < high]
            means.append(sum(own) / len(own))
        bottoms = [above[i] if one >= 0 else below[i] for i, one in enumerate(means)]
        ax.bar(range(len(groups)), means, bottom=bottoms, label=PARTS[name])
        for i, one in enumerate(means):
            above[i], below[i] = above[i] + max(one, 0), below[i] + min(one, 0)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xticks(range(len(groups)), [f"{int(low)}-{int(high) - 1}" for low, high in groups])
    ax.set_xlabel("position")
    ax.set_ylabel("mean of reported - trainer, nats")
    ax.legend(fontsize=8)


def _number(text: str) -> float:
    from fractions import Fraction

    return float(Fraction(text))


def _sides(ax, result, tokens) -> None:
    ax.scatter([t["trainer"] for t in tokens], [t["reported"] for t in tokens], s=6)
    low = min(min(t["trainer"], t["reported"]) for t in tokens)
    ax.plot([low, 0], [low, 0], color="black", linewidth=0.6)
    ax.set_xlabel("trainer's logprob")
    ax.set_ylabel("reported logprob")


def _differences(ax, result, tokens) -> None:
    ax.hist([t["difference"] for t in tokens], bins=60)
    ax.set_xlabel("reported - trainer, nats")
    ax.set_ylabel("tokens")


def _ratios(ax, result, tokens) -> None:
    from math import exp

    ax.hist([exp(max(-50.0, min(50.0, -t["difference"]))) for t in tokens], bins=60)
    for edge in (0.8, 1.2):
        ax.axvline(edge, color="black", linewidth=0.6)
    ax.set_xlabel("probability: trainer's over the rollout's")
    ax.set_ylabel("tokens")


def _sizes(ax, at: list[float], tokens) -> None:
    ax.set_yscale("symlog", linthresh=1e-8)  # before there are points, whose limits it would take for its own
    ax.scatter(at, [abs(t["difference"]) for t in tokens], s=6)
    ax.set_ylabel("|reported - trainer|")


def _by_probability(ax, result, tokens) -> None:
    from math import exp

    ax.set_xscale("log")
    _sizes(ax, [exp(t["trainer"]) for t in tokens], tokens)
    ax.set_xlabel("trainer's probability")


def _by_position(ax, result, tokens) -> None:
    _sizes(ax, [t["position"] for t in tokens], tokens)
    ax.set_xlabel("position")


_PICTURES = {
    "What the difference is made of": _parts,
    "Both sides": _sides,
    "Differences": _differences,
    "Ratios": _ratios,
    "Differences by probability": _by_probability,
    "Differences by position": _by_position,
}


def _table(heads: list[str], rows: list[list[Any]]) -> str:
    def cell(value: Any) -> str:
        return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))

    lines = ["<tr>" + "".join(f"<th>{html.escape(one)}</th>" for one in heads) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell(one)}</td>" for one in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _page(result: dict[str, Any], pictures: list[str], command: str) -> str:
    mistakes = [[one["mistake"], one["what"], one["rms"], one["rms_left"]] for one in result["mistakes"]]
    decomposition = [
        [PARTS.get(name, "reported - trainer"), one["mean"], one["mean_abs"], one["max_abs"]]
        for name, one in result["decomposition"].items()
    ]
    remedies = [[one[key] for key in ("remedy", "mean_abs", "rms", "max_abs", "k3")] for one in result["remedies"]]
    worst = [
        [one["rollout"], one["position"], one["token_id"], repr(one.get("token", "")), one["reported"], one["trainer"]]
        for one in result["worst"]
    ]
    by_token = [
        [one["token_id"], repr(one.get("token", "")), one["tokens"], one["mean_abs"]] for one in result["by_token"]
    ]
    measures = dict(result["measures"])
    if result["greedy_flips"] is not None:
        measures["greedy_flips"] = result["greedy_flips"]
    made = [["command", command]] if command else []
    made += [[name, result[name]] for name in ("trainer_device", "trainer_dtype", "isologit", "torch", "transformers")]
    how = "with" if result["captured"] else "without"
    body = [
        f"<h1>{html.escape(str(result['model']))}: reported and trainer's logprobs</h1>",
        f"<p>{result['measures']['tokens']} tokens of {result['rollouts']} rollouts, {how} captured hidden states; the "
        f"trainer in {result['trainer_dtype']}; isologit {result['isologit']}.</p>",
        "<h2>Mistakes that explain the data</h2>",
        _table(["mistake", "what", "RMS", "RMS left"], mistakes) if mistakes else "<p>None was found.</p>",
        "<h2>Parts</h2><p>Means of the signed parts add up; means of their sizes do not.</p>",
        _table(["part", "mean", "mean size", "max size"], decomposition),
        "<h2>What would be left</h2><p>Measured on the same states.</p>",
        _table(["remedy", "mean size", "RMS", "max size", "k3"], remedies),
        "<h2>Measures</h2>",
        _table(["measure", "value"], [[name, value] for name, value in measures.items()]),
        *pictures,
        "<h2>Worst tokens</h2>",
        _table(["rollout", "position", "id", "token", "reported", "trainer"], worst),
        "<h2>Token ids whose differences add up to most</h2>",
        _table(["id", "token", "tokens", "mean size"], by_token),
        "<h2>How it was made</h2>",
        _table(["what", "which"], made),
    ]
    style = (
        "body{font-family:sans-serif;max-width:62em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
        "td,th{border:1px solid #bbb;padding:.2em .6em;text-align:left}img{max-width:100%}figcaption{font-weight:bold}"
    )
    title = "isologit audit"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style></head><body>{''.join(body)}</body></html>\n"
    )
