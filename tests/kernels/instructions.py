"""How many instructions the kernels take, against the counts of instructions.json: fails where one grew by more than
5 %. No clock is read, so that a kernel that became slower is seen on any machine, however busy.

Of the portable and the AVX2 kernels callgrind counts what a call executes (counted.cpp). It knows no AVX-512; there
counts, in the disassembly of each function, the instructions of the loop that multiplies most: the one with the most
multiply-adds or products of tiles, of those that have no such loop inside.

Counts are those of one compiler, and are recorded by its name and version; for another the test is skipped.

usage: instructions.py COMPILER COMPILE_COMMANDS_JSON PROGRAM [--record]
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = Path(__file__).with_name("instructions.json")
MOST = 1.05
SKIPPED = 77
EXECUTED = ("portable", "portable_fast", "avx2", "avx2_fast")
# Fused multiply-adds, products of 8-bit and bf16 elements added up, the same of tiles.
PRODUCT = re.compile(r"vfn?m(add|sub)\d|vpdp|vdpbf16|tdp")
LEAST_PRODUCTS = 4  # of a loop that is counted: others are not where time goes
TYPES = {"isologit::DType)0": "bf16", "isologit::DType)1": "f16", "isologit::DType)2": "f32"}


def executed(program: str) -> dict[str, int]:
    """Instructions of each call that counted.cpp names."""
    with tempfile.TemporaryDirectory() as folder:
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={folder}/out",
                    "--toggle-collect=counted_call", "--dump-after=counted_call", program, *EXECUTED]  # fmt: skip
        names = subprocess.run(valgrind, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()
        for name in names:
            if ": not run: " in name:
                print(f"not run: {name.replace(': not run: ', ': ')}")
        names = [name for name in names if ": not run: " not in name]
        counts = {}
        for i, name in enumerate(names, 1):
            text = Path(f"{folder}/out.{i}").read_text()
            counts[name] = int(re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)[1])
    return counts


def functions(listing: str) -> list[tuple[str, list[tuple[int, str, str]]]]:
    """Name and instructions (address, mnemonic, operands) of each function of a disassembly."""
    found = []
    for line in listing.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            found.append((head[1], []))
        elif found and (parts := re.match(r" *([0-9a-f]+):\t(\S+) *(.*)", line)):
            found[-1][1].append((int(parts[1], 16), parts[2], parts[3]))
    return found


def loops(body: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """Addresses of the first and the last instruction of each loop: what a jump back spans."""
    found = set()
    for address, mnemonic, operands in body:
        target = re.match(r"([0-9a-f]+) <", operands)
        if mnemonic.startswith("j") and target and body[0][0] <= int(target[1], 16) <= address:
            found.add((int(target[1], 16), address))
    return sorted(found)


def greatest_loop(body: list[tuple[int, str, str]]) -> tuple[int, int] | None:
    """Products and instructions of the loop with most products, of those without a loop of products inside; the
    shortest of like ones."""
    spans = {}
    for first, last in loops(body):
        inside = [mnemonic for address, mnemonic, _ in body if first <= address <= last]
        products = sum(bool(PRODUCT.match(mnemonic)) for mnemonic in inside)
        if products > 0:
            spans[first, last] = (products, len(inside))
    counts = [pair for a, pair in spans.items()
              if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in spans)]  # fmt: skip
    counts = [pair for pair in counts if pair[0] >= LEAST_PRODUCTS]
    return max(counts, key=lambda pair: (pair[0], -pair[1]), default=None)


def short(name: str) -> str:
    """The function's own name with its template's arguments, without spaces of names and parameters."""
    for text, dtype in TYPES.items():
        name = name.replace(f"({text}", dtype)
    name = re.sub(r"isologit::detail::kernels::|isologit::|\(anonymous namespace\)::| \[clone [^]]*\]", "", name)
    name = re.sub(r"(\d)ul\b", r"\1", name)
    name = re.sub(r"(, )?[^,<]+<\w+>::\w+\([^{]*\{lambda\(.*?\)#\d+\}&?", "", name)  # the caller's function
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            name = name[:i]
            break
    return re.sub(r"^(void|bool|auto) ", "", name).replace("> >", ">>")


def disassembled(compile_commands: str) -> dict[str, dict[str, int]]:
    """Products and instructions of the greatest loop of each function that was compiled for AVX-512 or AMX."""
    counts = {}
    for entry in json.loads(Path(compile_commands).read_text()):
        if "/src/kernels/" not in entry["file"] or " -mavx512f" not in entry["command"]:
            continue
        built = Path(entry["directory"]) / re.search(r" -o (\S+)", entry["command"])[1]
        listing = subprocess.run(["objdump", "-d", "-C", "--no-show-raw-insn", built], check=True, text=True,
                                 stdout=subprocess.PIPE).stdout  # fmt: skip
        of_name: dict[str, list[tuple[int, int]]] = {}
        for name, body in functions(listing):
            if body and (loop := greatest_loop(body)):
                of_name.setdefault(short(name), []).append(loop)
        for name, found in of_name.items():  # functions of one name: those for other operands, which none of it tells
            for i, (products, instructions) in enumerate(sorted(found), 1):
                key = f"{Path(entry['file']).stem}, {name}" + (f" {i}" if len(found) > 1 else "")
                counts[key] = {"products": products, "instructions": instructions}
    return counts


def flat(counts: dict) -> dict[str, tuple[int, int]]:
    """Of each count products, 0 where they are not told, and instructions."""
    calls = {name: (0, number) for name, number in counts["executed"].items()}
    return calls | {name: (loop["products"], loop["instructions"]) for name, loop in counts["loops"].items()}


def compare(recorded: dict, found: dict) -> list[str]:
    """What is wrong, each with what to do."""
    before, now = flat(recorded), flat(found)
    faults = []
    for name, (products, instructions) in now.items():
        if name not in before:
            faults.append(f"{name}: {instructions} instructions, of which there is no record")
            continue
        old_products, old = before[name]
        if instructions > MOST * old:
            faults.append(f"{name}: {instructions} instructions, {instructions / old - 1:+.1%} on the {old} recorded")
        elif instructions * MOST < old:
            print(f"{name}: {instructions} instructions where {old} are recorded: fewer, which --record writes down")
        if products < old_products:
            faults.append(f"{name}: {products} products in the loop, where {old_products} are recorded")
    ran = {name.split(",")[0] for name in found["executed"]}
    for name in before.keys() - now.keys():
        if name in recorded["loops"] or name.split(",")[0] in ran:
            faults.append(f"{name}: is recorded and was not found")
    return faults


def main() -> int:
    arguments = [argument for argument in sys.argv[1:] if argument != "--record"]
    compiler, compile_commands, program = arguments
    compiler = ".".join(compiler.split(".")[:2])
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    recording = "--record" in sys.argv
    if not recording and compiler not in records:
        print(f"no counts are recorded for {compiler}; those there are, are for {', '.join(records)}")
        return SKIPPED
    if missing := [tool for tool in ("valgrind", "objdump") if shutil.which(tool) is None]:
        sys.exit(f"{missing[0]} is not installed; scripts/install-packages test installs it")
    found = {"executed": executed(program), "loops": disassembled(compile_commands)}
    if recording:
        records[compiler] = found
        RECORD.write_text(json.dumps(records, indent=1) + "\n")
        return 0
    faults = compare(records[compiler], found)
    for fault in faults:
        print(fault)
    print(f"{len(flat(found))} counts, {len(faults)} faults")
    if faults:
        print("Where that is meant, add --record to the command: ctest -R Kernels.Instructions -V shows it.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
