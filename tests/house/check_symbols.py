"""Nothing compiled for an instruction set can be linked into code that runs without it.

Compiles each such source once more as it was compiled, and once without optimisation, which inlines nothing, and looks
at the symbols that another file could link: only the functions that hand out targets and loops may be there.

usage: check_symbols.py COMPILE_COMMANDS_JSON
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ALLOWED = re.compile(r"isologit::detail::kernels::\w+(_target\(.*|_loops\(\))$")


def linkable(command: list[str], folder: str) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "made.o"
        command = command[: command.index("-o") + 1] + [str(made)] + command[command.index("-o") + 2 :]
        subprocess.run(command, check=True, cwd=folder)
        listing = subprocess.run(["nm", "-C", "--defined-only", "--extern-only", made], check=True, text=True,
                                 capture_output=True).stdout
    return [line.split(" ", 2)[2] for line in listing.splitlines()]


def main() -> None:
    entries = [entry for entry in json.loads(Path(sys.argv[1]).read_text())
               if "/src/kernels/" in entry["file"] and re.search(r" -m(avx|amx)", entry["command"])]
    if not entries:
        sys.exit("no source of src/kernels is compiled for an instruction set")
    faults = []
    for entry in entries:
        command = [part for part in shlex.split(entry["command"]) if not part.endswith("ccache")]
        for kind, options in (("as built", []), ("-O0", ["-O0"])):
            for symbol in linkable(command + options, entry["directory"]):
                if not ALLOWED.search(symbol):
                    faults.append(f"{Path(entry['file']).name}, {kind}: {symbol}")
    for fault in faults:
        print(fault)
    print(f"{len(entries)} sources, {len(faults)} symbols that could be linked elsewhere")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
