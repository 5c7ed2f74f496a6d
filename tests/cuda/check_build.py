"""usage: check_build.py registers|disassembly FOLDER

What nvcc and ptxas made of the CUDA kernels. registers: no kernel spills, on any architecture; prints registers by
kernel. disassembly: the f64 MMAs and 16-byte loads that the design counts on are there, nothing goes to local memory,
and kernels that begin early read the weight before they wait. Exit status 77 when cuobjdump is not here (PyPI's
nvidia-cuda-cuobjdump has it).
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

# What each kernel must hold, by kernel and architecture.
DMMA = {"sm_80": "DMMA.8", "sm_90": "DMMA.16x8x16", "sm_100": "DMMA.8x8x4"}
KERNELS = {
    "logits_*.cu.o": {"Split": ["LDG.E.128"], "Staged": ["LDS.128", "LDGSTS.E.BYPASS.128"]},
    "attention.cu.o": {"Attend": ["LDS.128", "LDGSTS.E.BYPASS.128"]},
    "backward.cu.o": {"Outer": ["LDG.E.128"]},
    "logits_*f16.cu.o": {"Fast": ["LDS.128"]},
    "logits_bf16.cu.o": {"Digits": ["LDS.128", "LDS.64", "LDGSTS.E.BYPASS.128"]},
}
# From sm_90 on: kernels that begin while the one before runs, with what they do until they wait for it, and those that
# let the next begin.
WAITS = "ACQBULK"
BEFORE_IT = {"Split": ["CCTL.E.PF2", "LDG.E.NA.LTC128B.128"], "Settle": []}
LETS_NEXT_BEGIN = {"Prepare": "PREEXIT", "Split": "PREEXIT"}
OTHER_PRODUCTS = {"Fast": "HMMA.16816.F32", "Digits": "IMMA.16832.U8.S8"}  # than DMMA


def short(name: str) -> str:
    """Split<4, Bf16, 0, 2, 2> of a mangled name: the kernel, and its arguments in order."""
    kernel = re.search(r"enterINS\d*_\d+([A-Z][A-Za-z]+?)INS\d*_11DeviceBlockILi(\d+)E", name)
    if kernel is None:
        return name
    rest = name[kernel.end() :]
    arguments = re.findall(r"NS\d*_\d([A-Z][a-z]*\d+)E|L[bi](\d+)E", rest.split("EEEvNT")[0] + "E")
    return f"{kernel[1]}<{', '.join([kernel[2], *(a or b for a, b in arguments)])}>"


def check_registers(folder: Path) -> int:
    text = "".join(log.read_text() for log in sorted(folder.glob("*.log")))
    compiled = re.findall(
        r"Compiling entry function '(\S+)' for '(sm_\d+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        text,
        re.DOTALL,
    )
    spills = 0
    for name, architecture, stores, loads, registers in sorted(compiled, key=lambda c: (short(c[0]), c[1])):
        spill = int(stores) + int(loads)
        spills += spill > 0
        print(
            f"{short(name):40} {architecture:7} {registers:>4} registers" + (f"  SPILLS {spill} bytes" if spill else "")
        )
    for architecture in DMMA:
        count = sum(c[1] == architecture for c in compiled)
        if count == 0:
            print(f"no kernels for {architecture}")
            return 1
    print(f"{len(compiled)} kernels, {spills} spill")
    return 1 if spills else 0


def find_cuobjdump() -> str | None:
    found = shutil.which("cuobjdump")
    if found is None:
        spec = importlib.util.find_spec("nvidia")
        for place in spec.submodule_search_locations if spec else ():
            for file in Path(place).glob("*/bin/cuobjdump"):
                found = str(file)
    return found


def early_missing(kernel: str, function: str) -> list[str]:
    """What a kernel that begins early, or lets one begin, should hold and does not."""
    missing = [mark for mark in (LETS_NEXT_BEGIN.get(kernel),) if mark and mark not in function]
    if kernel in BEFORE_IT:
        before, wait, _ = function.partition(WAITS)
        missing += [] if wait else [WAITS]
        missing += [f"{what} before {WAITS}" for what in BEFORE_IT[kernel] if what not in before]
    return missing


def check_disassembly(folder: Path) -> int:
    tool = find_cuobjdump()
    if tool is None:
        print("cuobjdump is not here; python3 -m pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
        return 77
    wrong = 0
    for file, kernels in ((file, kernels) for name, kernels in KERNELS.items() for file in sorted(folder.glob(name))):
        for architecture, product in DMMA.items():
            seen = set()
            sass = subprocess.run(
                [tool, "-sass", "-arch", architecture, file], check=True, capture_output=True, text=True
            ).stdout
            for function in sass.split("Function : ")[1:]:
                name = short(function.split(maxsplit=1)[0])
                kernel = name.split("<")[0]
                seen.add(kernel)
                wanted = [OTHER_PRODUCTS.get(kernel, product), *kernels[kernel]] if kernel in kernels else []
                if kernel == "Staged" and name.endswith("1>"):  # rows at multiples of 16 bytes
                    wanted.append("LDG.E.128")
                missing = [what for what in wanted if what not in function]
                if architecture != "sm_80":
                    missing += early_missing(kernel, function)
                local = [what for what in ("LDL", "STL") if re.search(rf"\b{what}\b", function)]
                if missing or local:
                    wrong += 1
                    print(f"{name} {architecture}: without {missing}, with {local}")
            if absent := kernels.keys() - seen:
                wrong += 1
                print(f"{file.name} {architecture}: without {absent}")
    print(f"{wrong} kernels are not what they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    sys.exit(check_registers(where) if what == "registers" else check_disassembly(where))
