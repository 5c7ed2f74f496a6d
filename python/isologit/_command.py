"""The isologit command: hands over to the executable that is installed in the package, but for verbs in Python."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from isologit import _outputs

EXECUTABLE = os.fspath(Path(__file__).with_name("bin") / "isologit")


def main() -> None:
    verb, arguments = sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]
    if verb == "audit":
        try:
            from isologit.audit.__main__ import main as audit
        except ModuleNotFoundError as error:
            sys.exit(f"isologit: audit needs {error.name}: pip install 'isologit[audit]'")
        audit(arguments)
    elif verb == "capture":
        capture(arguments)
    elif verb == "integrations":
        integrations()
    elif verb == "verify" and any(one == "--head" or one.startswith("--head=") for one in arguments):
        from isologit.testing.__main__ import main as verify_head

        verify_head(arguments)
    elif verb == "kernels" and set(arguments) <= {"--json"}:
        kernels("--json" in arguments)
    else:
        executable()


def integrations() -> None:
    """What this Python has of what isologit plugs into."""
    from isologit.integrations import status

    rows = [("package", "installed", "tested", "in force", "")]
    for row in status():
        rows.append((row.name, row.version or "-", row.tested[:12], "yes" if row.in_force else "no", row.why_not))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    _outputs.say(
        "\n".join(
            "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]).rstrip()
            for row in rows
        )
    )


def executable() -> None:
    try:  # what it leaves to Python is for this one
        environment = {"ISOLOGIT_PYTHON": sys.executable or "", **os.environ}
        os.execve(EXECUTABLE, [sys.argv[0], *sys.argv[1:]], environment)
    except FileNotFoundError:
        again = "install the package again: pip install --force-reinstall isologit"
        sys.exit(f"isologit: {EXECUTABLE} is missing; {again}")


def kernels(as_json: bool) -> None:
    """Those of the executable, those that the Python package adds, and the devices that torch sees."""
    from isologit import _devices, _native

    try:
        listed = subprocess.check_output([EXECUTABLE, "kernels", *["--json"] * as_json], text=True)
    except FileNotFoundError:
        executable()  # says so
    every = ["bf16", "f16", "f32"]
    added = {
        _native.TORCH: ("any of torch", every),
        _native.CUDA: ("CUDA", every),
        _native.CUDA_FAST: ("CUDA", ["bf16", "f16"]),
    }
    own = [kernel for kernel in _native.kernels() if kernel.name in added]
    if as_json:
        found = json.loads(listed)
        keys = found["kernels"][0]
        for kernel in own:
            said = {"dtypes": added[kernel.name][1], "why_not": kernel.why_not or None}
            found["kernels"].append({key: said.get(key, getattr(kernel, key, None)) for key in keys})
        found["devices"] = []
        for device in _devices.devices()[1:]:
            measured = None if device.why_not else _devices.rates(device.device)
            found["devices"].append(device._asdict() | {"a_second": measured and measured._asdict()})
        _outputs.say(json.dumps(found, indent=2))
    else:
        for kernel in own:
            runs = "yes" if kernel.runnable else f"no: {kernel.why_not}"
            where, dtypes = added[kernel.name]
            told = f"  {kernel.name:<13}  {where:<15}  {kernel.arithmetic:<10}  {' '.join(dtypes):<17}  {runs}"
            listed = f"{listed.rstrip()}\n{told}"
        _outputs.say("\n".join([listed, *(line for device in _devices.devices()[1:] for line in _told_of(device))]))


def _told_of(device: Any) -> list[str]:
    """A device of torch: whether it passes its self-test, and what it does in a second."""
    from isologit import _devices

    lines = [f"  {device.device}: {device.name}"]
    if device.why_not:
        return [*lines, f"    self-test: not used: {device.why_not}"]
    lines.append(f"    self-test: passed; kernel {device.kernel}" + (f"; {device.told}" if device.told else ""))
    measured = _devices.rates(device.device)
    if measured is None:
        return [*lines, "    a second: not measured, its memory is in use"]
    copied, f64, bf16 = measured.copied / 1e9, measured.f64 / 1e12, measured.bf16 / 1e12
    return [*lines, f"    a second: copies {copied:.0f} GB, products {f64:.1f} TFLOP in f64, {bf16:.1f} in bf16"]


def capture(arguments: list[str]) -> None:
    """Runs a command in whose vLLM engines the plugin writes what passes the head."""
    if len(arguments) < 3 or arguments[1] != "--":
        usage = "usage: isologit capture FILE -- COMMAND...\n\nRuns COMMAND; vLLM engines in it write captured rows."
        print(usage, file=sys.stderr)
        sys.exit(2)
    file, command = Path(arguments[0]).absolute(), arguments[2:]
    try:
        _outputs.check_captured(file)
    except ValueError as error:
        sys.exit(f"isologit: {error}")
    said = f"isologit: vLLM engines of {command[0]} append the rows at their head to {file}"
    print(said, file=sys.stderr, flush=True)
    try:
        os.execvpe(command[0], command, os.environ | {"ISOLOGIT_CAPTURE": os.fspath(file)})
    except OSError as error:
        sys.exit(f"isologit: {command[0]} cannot be run: {error.strerror}; expected a command after --")
