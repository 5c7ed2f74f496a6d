"""The rooms of src/ are as CONTRIBUTING.md draws them: no include runs up, and a folder's namespace is its name.

usage: check_rooms.py REPOSITORY
"""

import re
import sys
from pathlib import Path


def drawn_rooms(contributing: str) -> dict[str, int]:
    """The height of each room in the drawing: `a ← b ← c, d` are three storeys."""
    drawing = re.search(r"^    (\w+ ←.*)$", contributing, re.MULTILINE)
    if drawing is None:
        sys.exit("CONTRIBUTING.md: no line that draws the rooms, such as `    base ← exact ← ...`")
    storeys = drawing[1].split("←")
    return {room.strip(): height for height, storey in enumerate(storeys) for room in storey.split(",")}


def main() -> None:
    root = Path(sys.argv[1])
    heights = drawn_rooms((root / "CONTRIBUTING.md").read_text())
    faults = []
    for folder in sorted(path for path in (root / "src").iterdir() if path.is_dir()):
        if folder.name not in heights:
            faults.append(f"src/{folder.name} is not in the drawing")
            continue
        for path in sorted(folder.glob("*.[ch]pp")):
            text = path.read_text()
            name = path.relative_to(root)
            for room in re.findall(r'^#include "(\w+)/', text, re.MULTILINE):
                if room == "isologit" or room == folder.name:
                    continue
                if heights.get(room, 99) >= heights[folder.name]:
                    faults.append(f"{name} includes {room}/, which is not below {folder.name}/")
            spaces = {space for space in re.findall(r"^namespace (?:isologit::)?detail::(\w+)[ :]", text, re.MULTILINE)}
            if spaces - {folder.name}:
                faults.append(f"{name} opens {', '.join(sorted(spaces))}; expected {folder.name}")
            if not spaces and "namespace isologit {" not in text and 'extern "C"' not in text:
                faults.append(f"{name} is outside isologit::detail::{folder.name}")
    missing = [room for room in heights if not (root / "src" / room).is_dir()]
    faults += [f"{room} is drawn, but src/{room} is not there" for room in missing]
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
