"""The English text the example model is trained on: documents, and which of them are held out."""

import re
import shutil
import subprocess
from pathlib import Path

HELD_OUT_EVERY = 20  # one document in 20 is never trained on
MIN_DOCUMENT = 1500  # characters; shorter passages of a plain file are joined

BIBLE = shutil.which("bible") or "/usr/bin/bible"
NO_TEXT = (
    "no training text: /usr/bin/bible was not found.\n"
    "Install the King James Bible (public domain) with `apt-get install bible-kjv`,\n"
    "or name plain English text files of your own with `--text FILE...`."
)


def bible_documents() -> list[str]:
    """One document per chapter, one line per verse, without the verse references."""
    if not Path(BIBLE).exists():
        raise SystemExit(NO_TEXT)
    command = [BIBLE, "-f", "gen1:1-rev22:21"]
    verses = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    chapters: dict[str, list[str]] = {}
    for verse in verses:
        reference, words = verse.split(" ", 1)
        chapters.setdefault(reference.split(":")[0], []).append(words.strip())
    return ["\n".join(chapter) for chapter in chapters.values()]


def file_documents(paths: list[Path]) -> list[str]:
    """Passages between blank lines, joined until each document has MIN_DOCUMENT characters."""
    documents = []
    for path in paths:
        passage = ""
        for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            passage = f"{passage}\n{paragraph.strip()}".strip()
            if len(passage) >= MIN_DOCUMENT:
                documents.append(passage)
                passage = ""
        if passage:
            documents.append(passage)
    return documents


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """(training, held out); deterministic, and spread evenly over the text."""
    if len(documents) < 2 * HELD_OUT_EVERY:
        raise SystemExit(
            f"the text has {len(documents)} documents of about {MIN_DOCUMENT} characters; "
            f"at least {2 * HELD_OUT_EVERY} are needed to hold some out: give more text"
        )
    is_held_out = [i % HELD_OUT_EVERY == HELD_OUT_EVERY // 2 for i in range(len(documents))]
    training = [d for d, held in zip(documents, is_held_out, strict=True) if not held]
    held_out = [d for d, held in zip(documents, is_held_out, strict=True) if held]
    return training, held_out
