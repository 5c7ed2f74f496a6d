"""What MkDocs asks for while it builds the site: pages of the repository's root, of the headers and of the package."""

import inspect
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OF_ROOT = ("CONTRACT.md", "CONTRIBUTING.md", "CHANGELOG.md", "README.md")


def on_files(files: Files, config) -> Files:
    for name in OF_ROOT:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    files.append(File.generated(config, "api/headers.md", content=headers()))
    files.append(File.generated(config, "api/python.md", content=package()))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Links lead to pages of the site; those to files of the repository that the site has not are their text."""
    generated = page.file.src_uri in OF_ROOT
    here = ROOT if generated else (ROOT / "docs" / page.file.src_uri).parent
    up = "../" * (0 if generated else page.file.src_uri.count("/"))

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = (here / target).resolve()
        if path.parent == ROOT and path.name in OF_ROOT:
            return f"[{text}]({up}{path.name}{anchor})"
        if path.is_relative_to(ROOT / "docs") and path.is_file() and path.suffix != ".py":
            return f"[{text}]({up}{path.relative_to(ROOT / 'docs')}{anchor})"
        return text if path.exists() else found[0]

    if page.file.src_uri.startswith("api/"):
        return markdown
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!\w+://|#)([^)#\s]+)(#[^)\s]*)?\)", link, markdown)


def headers() -> str:
    """Each header as it is installed: its comments are the documentation."""
    parts = ["# Headers\n"]
    for header in sorted((ROOT / "include/isologit").iterdir()):
        parts.append(f"## {header.name}\n\n```cpp\n{header.read_text(encoding='utf-8')}```\n")
    return "\n".join(parts)


def package() -> str:
    """The functions and classes of the installed package, with their docstrings."""
    import isologit

    parts = ["# The Python package\n", inspect.getdoc(isologit), ""]
    for name in isologit.__all__:
        found = getattr(isologit, name)
        if inspect.ismodule(found):
            parts += [f"## isologit.{name}\n", inspect.getdoc(found) or "", ""]
            for inner in getattr(found, "__all__", [n for n, one in vars(found).items() if _is_of(one, found)]):
                parts += entry(f"isologit.{name}.{inner}", getattr(found, inner), "###")
        else:
            parts += entry(f"isologit.{name}", found, "##")
    return "\n".join(parts)


def _is_of(one: object, module) -> bool:
    public = inspect.isfunction(one) or inspect.isclass(one)
    return public and one.__module__ == module.__name__ and not one.__name__.startswith("_")


def entry(name: str, found: object, heading: str) -> list[str]:
    if inspect.ismodule(found):
        return [f"{heading} {name}\n", inspect.getdoc(found) or "", ""]
    try:
        signature = str(inspect.signature(found))
    except (TypeError, ValueError):
        signature = ""
    text = inspect.getdoc(found) or ""
    return [f"{heading} {name}\n", f"```text\n{name.rpartition('.')[2]}{signature}\n\n{text}\n```", ""]
