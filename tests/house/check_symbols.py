"""Nothing compiled for an instruction set can be linked into code that runs without it.

Looks at each such object as it was built, and compiled once more without optimisation, which inlines nothing: of the
symbols that another file could link, only the functions that hand out targets, loops and passes may be there.

usage: check_symbols.py COMPILE_COMMANDS_JSON
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ALLOWED = re.compile(r"isologit::detail::kernels::\w+(_target\(.*|_loops\(\)|_pass\(\))$")
# No code: an empty object of the standard library, and the exception ABI's pointer to its one handler.
NO_CODE = {("C", "std::ranges::lexicographical_compare"), ("V", "DW.ref.__gxx_personality_v0")}


def linkable(made: Path) -> list[str]:
    listing = subprocess.run(["nm", "-C", "--defined-only", "--extern-only", made], check=True, text=True,
                             capture_output=True).stdout
    symbols = [tuple(line.split(" ", 2)[1:]) for line in listing.splitlines()]
    return [name for kind, name in symbols if (kind, name) not in NO_CODE]


def compiled_without_optimisation(command: list[str], folder: str, scratch: str) -> Path:
    made = Path(scratch) / "made.o"
    at = command.index("-o") + 1
    subprocess.run([*command[:at], made, *command[at + 1 :], "-O0"], check=True, cwd=folder)
    return made


def main() -> None:
    entries = [entry for entry in json.loads(Path(sys.argv[1]).read_text())
               if "/src/kernels/" in entry["file"] and re.search(r" -m(avx|amx)", entry["command"])]
    if not entries:
        sys.exit("no source of src/kernels is compiled for an instruction set")
    faults = []
    for entry in entries:
        command = [part for part in shlex.split(entry["command"]) if not part.endswith("ccache")]
        built = Path(entry["directory"]) / command[command.index("-o") + 1]
        with tempfile.TemporaryDirectory() as scratch:
            for made in (built, compiled_without_optimisation(command, entry["directory"], scratch)):
                faults += [f"{made}: {symbol}" for symbol in linkable(made) if not ALLOWED.search(symbol)]
    for fault in faults:
        print(fault)
    print(f"{len(entries)} sources, {len(faults)} symbols that could be linked elsewhere")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
