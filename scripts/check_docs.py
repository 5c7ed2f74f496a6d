#!/usr/bin/env python3
"""usage: check_docs.py FILE.md [--path FOLDER]

Holds a page to its word:

- The commands of every ```console block are run, those of one block in one shell, in a scratch folder that shows the
  repository's files; FOLDER goes in front of PATH. A command is a line that begins with "$ ", continued by lines that
  begin with "> "; what follows is the output it must print, on stdout and stderr together. In that, "..." within a
  line stands for any text, and a line of "..." alone for any lines. A command must succeed, unless the next one is
  "echo $?". What differs by machine and run (VARYING) may differ.
  `<!-- needs MODULE -->` on the line above a block leaves it out where python3 does not have that module.
  `<!-- not run: REASON -->` on the line above a block leaves it out and says why, `<!-- first command not run: REASON
  -->` its first command.
- A block under `<!-- from PATH -->` must be the text of that file, or the part of it between the lines that hold
  "[snippet" and "snippet]".
- Relative links must lead to files.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "@@check-docs@@"

# Times, processors and threads, and how many logits a kernel had to settle again. Where a page shows text that one of
# these matches, other text that it matches will do.
VARYING = [
    r"[0-9.]+ s\b",
    r'"seconds": [0-9.e-]+',
    r"\bkernel +\w+, threads \d+",
    r'"kernel": "\w+"',
    r'"threads": \d+',
    r'"logit_fallbacks": \d+',
    r"\d+ logits by exact accumulation",
    r"[0-9.]+ [kMG]B more",
    r" +-?[1-9]\.\d\de-\d\d",  # differences of floats; a 0 does not differ
    r'"working_bytes": \d+',
    r"(?:yes|no: .+?)(?: +chosen)?$",
    r'"runnable": \w+',
    r'"why_not": .*,',
    r'"chosen(?:_fast)?": .+',
]


@dataclass
class Block:
    language: str
    line: int  # of its first line of text
    note: str  # the line above the block
    text: list[str] = field(default_factory=list)


@dataclass
class Command:
    line: int
    text: str
    shown: list[str] = field(default_factory=list)


def read_blocks(text: str) -> list[Block]:
    blocks: list[Block] = []
    inside = False
    previous = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
            if inside:
                blocks.append(Block(line[3:].strip(), number + 1, previous))
        elif inside:
            blocks[-1].text.append(line)
        previous = line
    if inside:
        sys.exit(f"line {blocks[-1].line}: the block is not closed")
    return blocks


def read_commands(block: Block) -> list[Command]:
    commands: list[Command] = []
    for number, line in enumerate(block.text, block.line):
        if line.startswith("$ "):
            commands.append(Command(number, line[2:]))
        elif not commands:
            sys.exit(f"line {number}: a console block begins with a command, \"$ ...\"")
        elif line.startswith("> ") and not commands[-1].shown:
            commands[-1].text += "\n" + line[2:]
        else:
            commands[-1].shown.append(line)
    return commands


def line_pattern(shown: str) -> str:
    for varying in VARYING:
        if found := re.search(varying, shown):
            kind = varying.removesuffix("$")
            return line_pattern(shown[:found.start()]) + kind + line_pattern(shown[found.end():])
    return ".*?".join(re.escape(part) for part in shown.split("..."))


def pattern(shown: list[str]) -> re.Pattern[str]:
    lines = (r"(?:.*\n)*?" if line.strip() == "..." else line_pattern(line) + r"\n" for line in shown)
    return re.compile("".join(lines))


def run_block(commands: list[Command], folder: Path, path: str) -> list[str]:
    """What is wrong with what the commands print, one entry for each command that is not as shown."""
    script = "".join(f"{c.text}\nstatus=$?; printf '\\n%s %d\\n' '{MARK}' $status; (exit $status)\n" for c in commands)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ISOLOGIT_")}
    environment.update(PATH=f"{path}:{environment['PATH']}" if path else environment["PATH"], LC_ALL="C.UTF-8")
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
    pieces = re.split(rf"\n{MARK} (\d+)\n", done.stdout)
    if len(pieces) != 2 * len(commands) + 1:
        return [f"the block ended early:\n{done.stdout}"]
    wrong = []
    for i, command in enumerate(commands):
        printed, status = pieces[2 * i], int(pieces[2 * i + 1])
        if printed and not printed.endswith("\n"):
            printed += "\n"
        shown_next = commands[i + 1].text if i + 1 < len(commands) else ""
        if status != 0 and shown_next != "echo $?":
            wrong.append(f"line {command.line}: $ {command.text}\nended with {status}:\n{printed}")
        elif not pattern(command.shown).fullmatch(printed):
            shown = "".join(line + "\n" for line in command.shown)
            wrong.append(f"line {command.line}: $ {command.text}\nshown:\n{shown}printed:\n{printed}")
    return wrong


def has_module(name: str, path: str) -> bool:
    """Whether the python3 that the commands would meet has it."""
    environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{name}') is None)"
    return subprocess.run(["python3", "-c", test], env=environment, check=False).returncode == 0


def check_commands(blocks: list[Block], path: str) -> tuple[int, list[str]]:
    count = 0
    wrong = []
    for block in blocks:
        if block.language != "console":
            continue
        commands = read_commands(block)
        left_out = re.fullmatch(r"<!-- (first command )?not run: (.+) -->", block.note)
        if left_out:
            rest = commands[1:] if left_out[1] else []
            for command in commands[:len(commands) - len(rest)]:
                print(f"not run: $ {command.text} ({left_out[2]})")
            commands = rest
        if (needs := re.fullmatch(r"<!-- needs (\w+) -->", block.note)) and not has_module(needs[1], path):
            for command in commands:
                print(f"not run: $ {command.text} (needs {needs[1]})")
            continue
        with tempfile.TemporaryDirectory() as folder:
            for entry in ROOT.iterdir():
                (Path(folder) / entry.name).symlink_to(entry)
            wrong += run_block(commands, Path(folder), path)
        count += len(commands)
    return count, wrong


def check_sources(blocks: list[Block]) -> list[str]:
    wrong = []
    for block in blocks:
        source = re.fullmatch(r"<!-- from (\S+) -->", block.note)
        if not source:
            continue
        lines = (ROOT / source[1]).read_text(encoding="utf-8").splitlines()
        begins = [i for i, line in enumerate(lines) if "[snippet" in line]
        if begins:
            end = next(i for i, line in enumerate(lines) if "snippet]" in line)
            lines = lines[begins[0] + 1:end]
        if lines != block.text:
            wrong.append(f"line {block.line}: the block is not what {source[1]} holds")
    return wrong


def check_links(page: Path, text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    wrong = []
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if "://" not in target and not (page.parent / target).exists():
            wrong.append(f"the link to {target} leads nowhere")
    return wrong


def main() -> None:
    arguments = argparse.ArgumentParser(description="Runs a page's commands and compares what they print.")
    arguments.add_argument("page", type=Path)
    arguments.add_argument("--path", default="", help="goes in front of PATH")
    given = arguments.parse_args()
    text = given.page.read_text(encoding="utf-8")
    blocks = read_blocks(text)
    count, wrong = check_commands(blocks, given.path)
    wrong += check_sources(blocks)
    wrong += check_links(given.page, text)
    for message in wrong:
        print(f"{given.page}: {message}")
    print(f"{given.page}: {count} commands run, {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


main()
