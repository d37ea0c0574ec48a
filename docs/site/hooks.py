"""What mkdocs does not know: README.md is the first page, and links may lead to files outside of docs/.

mkdocs build --strict
"""

import os
import pathlib
import re
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
LINK = re.compile(r'(\]\(|src=")([^)"#:\s]+)((?:#[^)"]*)?[)"])')  # not of another site, nor of a heading of the same page
FOLDER = re.compile(r"\[([^]]*)\]\(([^)#:\s]+)\)")  # a site has no page of a folder
MATHEMATICS = re.compile(r"diffusion_jax/(\w+)\.py")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages beside docs/, the page of functions, and every other file that a page links to, under files/."""
    texts = {name: (ROOT / name).read_text() for name in PAGES}
    pages = [file for file in files.documentation_pages() if file.src_uri.endswith(".md")]
    texts |= {f"docs/{file.src_uri}": file.content_string for file in pages}
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=texts[name]))
    files.append(File.generated(config, "api.md", content=functions()))
    for place in sorted({_place(name, target) for name, text in texts.items() for _, target, _ in LINK.findall(text)}):
        if (ROOT / place).is_file() and not _is_of_site(place):
            files.append(File.generated(config, f"files/{place}", abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Returns a page whose links lead to what the site has."""
    name = next((name for name, other in PAGES.items() if other == page.file.src_uri), f"docs/{page.file.src_uri}")

    def leading(found: re.Match) -> str:
        before, target, after = found.groups()
        place = _place(name, target)
        if _is_of_site(place):
            place = PAGES.get(place, place.removeprefix("docs/"))
        elif (of := MATHEMATICS.fullmatch(place)) and of[1] in mathematics():
            place, after = "api.md", f"#diffusion_jax.{of[1]}{after[-1]}"
        else:
            place = f"files/{place}"
        return before + place + after

    shown = FOLDER.sub(lambda found: found[1] if (ROOT / _place(name, found[2])).is_dir() else found[0], markdown)
    return LINK.sub(leading, shown)


def mathematics() -> list[str]:
    """Returns the names of the files that docs/architecture.md calls mathematics."""
    row = re.search(r"^\| top: (.*?) \|", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE)
    return re.findall(r"`(\w+)`", row[1])


def functions() -> str:
    """Returns the page that mkdocstrings fills with docstrings."""
    parts = [f"::: diffusion_jax.{name}" for name in sorted(mathematics(), key="samplers".__ne__)]  # with what to read first
    return "\n\n".join(["# The mathematics, function by function", *parts]) + "\n"


def _is_of_site(place: str) -> bool:
    return place in PAGES or (place.startswith("docs/") and not place.startswith("docs/demo/"))


def _place(name: str, target: str) -> str:
    """Returns where a link of a file leads, from the top of the repository."""
    return os.path.normpath(pathlib.PurePosixPath(name).parent / target)
