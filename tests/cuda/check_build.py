"""usage: check_build.py registers|disassembly FOLDER

What nvcc and ptxas made of the CUDA kernels. registers: no kernel spills, on any architecture, and no wgmma is
serialized; prints registers by kernel. disassembly: the MMAs and 16-byte loads that the design counts on are there,
nothing goes to local memory, and kernels that begin early read the weight before they wait. Exit status 77 when
cuobjdump is not here (PyPI's nvidia-cuda-cuobjdump has it).
"""

import functools
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
    "backward.cu.o": {
        "Outer": ["LDG.E.128"],
        "PartProducts": ["LDSM.16.MT88.4", "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128"],
    },
    "logits_*f16.cu.o": {"Fast": ["LDSM.16.M88.4", "LDGSTS.E.BYPASS.128"]},
    "logits_bf16.cu.o": {"Digits": ["LDS.128", "LDS.64", "LDGSTS.E.BYPASS.128"]},
}
# From sm_90 on: kernels that begin while the one before runs, with what they do until they wait for it, and those that
# let the next begin.
WAITS = "ACQBULK"
BEFORE_IT = {"Split": ["CCTL.E.PF2", "LDG.E.NA.LTC128B.128"], "Settle": []}
LETS_NEXT_BEGIN = {"Prepare": "PREEXIT", "Split": "PREEXIT"}
# Other products than DMMA.
OTHER_PRODUCTS = {"Fast": "HMMA.16816.F32", "PartProducts": "HMMA.16816.F32.BF16", "Digits": "IMMA.16832.U8.S8"}
# Of sm_90a alone: instructions, and how many products may be under way when the kernel waits for some.
WGMMA = {
    "DigitsWgmma": ["IGMMA.64x", "U8.S8", "LDS.128", "LDGSTS.E.BYPASS.128", "FENCE.VIEW.ASYNC", "gsb0, 0x1"],
    "FastWgmma": ["HGMMA.64x128x16.F32", "LDGSTS.E.BYPASS.128", "FENCE.VIEW.ASYNC", "gsb0, 0x1"],
    "WgmmaSelfTest": ["IGMMA.64x64x32.U8.S8", "IGMMA.64x32x32.U8.S8"],
    "FastWgmmaSelfTest": ["HGMMA.64x128x16.F32", "HMMA.16816.F32"],
}


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
        r"Compiling entry function '(\S+)' for '(sm_\d+a?)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
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
    for architecture in (*DMMA, "sm_90a"):
        count = sum(c[1] == architecture for c in compiled)
        if count == 0:
            print(f"no kernels for {architecture}")
            return 1
    # ptxas's C7510 and its like: of a kernel whose products it runs one after the other, or for which it waits itself.
    serialized = re.findall(r"\(C75\d\d\).*", text)
    print(*serialized, sep="\n", end="\n" if serialized else "")
    print(f"{len(compiled)} kernels, {spills} spill, {len(serialized)} serialize wgmma")
    return 1 if spills or serialized else 0


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


def wanted_of(name: str, kernels: dict[str, list[str]], product: str) -> list[str]:
    kernel = name.split("<")[0]
    if kernel not in kernels:
        return []
    if kernel in WGMMA:
        return kernels[kernel]
    wanted = [OTHER_PRODUCTS.get(kernel, product), *kernels[kernel]]
    if kernel == "Staged" and name.endswith("1>"):  # rows at multiples of 16 bytes
        wanted.append("LDG.E.128")
    return wanted


@functools.cache
def disassembly_of(tool: str, file: Path, architecture: str) -> str:
    return subprocess.run(
        [tool, "-sass", "-arch", architecture, file], check=True, capture_output=True, text=True
    ).stdout


def check_file(tool: str, file: Path, architecture: str, kernels: dict[str, list[str]], product: str) -> int:
    """How many kernels of a file lack what they must hold, or go to local memory."""
    wrong, seen = 0, set()
    for function in disassembly_of(tool, file, architecture).split("Function : ")[1:]:
        name = short(function.split(maxsplit=1)[0])
        kernel = name.split("<")[0]
        seen.add(kernel)
        missing = [what for what in wanted_of(name, kernels, product) if what not in function]
        if architecture != "sm_80":
            missing += early_missing(kernel, function)
        local = [what for what in (" LDL", " STL") if what in function]
        if missing or local:
            wrong += 1
            print(f"{name} {architecture}: without {missing}, with {local}")
    if absent := kernels.keys() - seen:
        wrong += 1
        print(f"{file.name} {architecture}: without {absent}")
    return wrong


def check_disassembly(folder: Path) -> int:
    tool = find_cuobjdump()
    if tool is None:
        print("cuobjdump is not here; python3 -m pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
        return 77
    wrong = check_file(tool, folder / "wgmma.cu.o", "sm_90a", WGMMA, "")
    for name, kernels in KERNELS.items():
        for file in sorted(folder.glob(name)):
            for architecture, product in DMMA.items():
                wrong += check_file(tool, file, architecture, kernels, product)
    print(f"{wrong} kernels are not what they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    sys.exit(check_registers(where) if what == "registers" else check_disassembly(where))
