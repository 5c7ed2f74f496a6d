#!/usr/bin/env python3
"""usage: check_wheel.py WHEEL

Holds a wheel, isologit's or isologit-cuda's, to running on other machines than the one that built it:

- Its libraries and its command need no shared libraries but those of C and C++.
- auditwheel finds it consistent with MANYLINUX or an older tag.
- The command, if it has one, scores the example in a root folder that has those libraries and nothing else (as root).

Runs with a Python that has auditwheel.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = re.compile(r"(libc|libm|libpthread|libstdc\+\+|libgcc_s|ld-linux-[\w-]+)\.so\.\d+")
MANYLINUX = (2, 35)  # for the libstdc++ of GCC 12; docs/python.md names it


def needed(binary: Path) -> set[str]:
    with binary.open("rb") as file:
        tags = ELFFile(file).get_section_by_name(".dynamic").iter_tags("DT_NEEDED")
        return {tag.needed for tag in tags}


def interpreter(binary: Path) -> str:
    with binary.open("rb") as file:
        return ELFFile(file).get_section_by_name(".interp").data().rstrip(b"\0").decode()


def check_needed(package: Path) -> None:
    binaries = sorted((*package.glob("*.so"), *package.glob("bin/*")))
    if not binaries:
        sys.exit(f"the wheel has no library in {package.name}/")
    for binary in binaries:
        other = {name for name in needed(binary) if not SYSTEM.fullmatch(name)} - {"libisologit.so"}
        if other:
            sys.exit(f"{binary.name} needs {', '.join(sorted(other))}: link it statically, or not at all")
        print(f"{binary.name} needs {', '.join(sorted(needed(binary)))}")


def check_tag(wheel: Path) -> None:
    auditwheel = [sys.executable, "-m", "auditwheel", "show", wheel]
    told = subprocess.run(auditwheel, check=True, text=True, capture_output=True).stdout
    found = re.search(r'platform tag:\s+"(manylinux_(\d+)_(\d+)_\w+)"', told)
    if not found:
        sys.exit(f"auditwheel finds no manylinux tag:\n{told}")
    if (int(found[2]), int(found[3])) > MANYLINUX:
        sys.exit(f"auditwheel: {found[1]}; expected manylinux_{MANYLINUX[0]}_{MANYLINUX[1]} or older:\n{told}")
    print(f"fits {found[1]}")


def copy_to(root: Path, file: str) -> None:
    place = root / file.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, place)  # what a link leads to


def check_alone(root: Path, package: Path) -> None:
    """In `root`, which holds the package and gets the example and the libraries of C and C++."""
    command = package / "bin/isologit"
    arguments = ["score", "examples/tiny-qwen3", "--input", "examples/captured/tiny-qwen3.safetensors", "--json"]
    copy_to(root, interpreter(command))
    listed = subprocess.run(["ldd", command], check=True, text=True, capture_output=True).stdout
    for name, path in re.findall(r"(\S+) => (/\S+)", listed):
        if SYSTEM.fullmatch(name):
            copy_to(root, path)
    for folder in ("examples/tiny-qwen3", "examples/captured"):
        shutil.copytree(ROOT / folder, root / folder)
    alone = subprocess.run(
        ["chroot", root, "/isologit/bin/isologit", *arguments], check=False, text=True, capture_output=True,
        env=os.environ | {"LD_LIBRARY_PATH": "/isologit"})  # found beside the command otherwise, but not without /proc
    if alone.returncode != 0:
        sys.exit(f"with the libraries of C and C++ alone the command ends with {alone.returncode}:\n{alone.stderr}")
    here = subprocess.run([command, *arguments], cwd=ROOT, check=True, text=True, capture_output=True)
    digests = [re.search(r'"digest": "\w+"', done.stdout) for done in (alone, here)]
    if None in digests or digests[0][0] != digests[1][0]:
        sys.exit(f"alone the command prints\n{alone.stdout}and here\n{here.stdout}")
    print("the command runs with the libraries of C and C++ alone")


def main() -> None:
    wheel = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root)
        package = root / "isologit"
        command = package / "bin/isologit"
        check_needed(package)
        check_tag(wheel)
        if not command.exists():
            return
        command.chmod(0o755)
        if os.geteuid() == 0:
            check_alone(root, package)
        else:
            print("not run: the command with those libraries alone (chroot is root's)")


main()
