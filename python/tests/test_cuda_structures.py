"""The structures by which Python calls the CUDA library are those of isologit/cuda.h: a C program tells where each of
their members lies, how long it is, and whether it is a floating-point number."""

import ctypes
import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from isologit import _cuda_structures

INCLUDE = Path(__file__).resolve().parents[2] / "include"
SHARED = ("Matrix", "Vector", "IdLists", "Tensor", "Output")  # of isologit.h and forward.h
C_NAMES = {"IdLists": "isologit_id_lists", "Output": "isologit_tensor_output"}
CLASSES = {
    name: of
    for name, of in inspect.getmembers(_cuda_structures, inspect.isclass)
    if issubclass(of, ctypes.Structure) and of is not ctypes.Structure
}


def c_name(name: str) -> str:
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return C_NAMES.get(name, f"isologit_{snake}" if name in SHARED else f"isologit_cuda_{snake}")


def test_every_structure_of_the_header_has_its_class():
    told = re.findall(r"^typedef struct (isologit_cuda_\w+) {", (INCLUDE / "isologit" / "cuda.h").read_text(), re.M)
    assert sorted(told) == sorted(c_name(name) for name in CLASSES if name not in SHARED)


def test_members_lie_where_the_header_has_them(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    lines = []
    for name, of in CLASSES.items():
        c = c_name(name)
        lines.append(f'printf("{name} %zu\\n", sizeof({c}));')
        for field, *_ in of._fields_:
            member = f"(({c}*)0)->{field}"
            floating = f"_Generic({member}, float: 1, double: 1, default: 0)"
            place = f"offsetof({c}, {field}), sizeof({member}), {floating}"
            lines.append(f'printf("{name}.{field} %zu %zu %d\\n", {place});')
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    body = "\n".join(lines)
    source.write_text(
        f'#include <stddef.h>\n#include <stdio.h>\n#include "isologit/cuda.h"\nint main(void) {{\n{body}\n}}\n'
    )
    subprocess.run(["cc", "-std=c11", "-I", INCLUDE, source, "-o", program], check=True)
    of_c = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    of_python = []
    for name, of in CLASSES.items():
        of_python.append(f"{name} {ctypes.sizeof(of)}")
        for field, kind in of._fields_:
            place = getattr(of, field)
            floating = int(kind in (ctypes.c_float, ctypes.c_double))
            of_python.append(f"{name}.{field} {place.offset} {place.size} {floating}")
    assert of_python == of_c
