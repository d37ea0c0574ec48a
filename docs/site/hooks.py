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
HREF = re.compile(r'(<a href=")([^":#]+\.(?:md|ipynb|py|json))((?:#[^"]*)?")')  # of a notebook
FOLDER = re.compile(r"\[([^]]*)\]\(([^)#:\s]+)\)")  # a site has no page of a folder
MATHEMATICS = re.compile(r"diffusion_jax/(\w+)\.py")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages beside docs/, the page of functions, and every other file that a page links to, under files/."""
    texts = {name: (ROOT / name).read_text() for name in PAGES}
    pages = files.documentation_pages()
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
    shown = FOLDER.sub(lambda found: found[1] if (ROOT / _place(name, found[2])).is_dir() else found[0], markdown)
    return LINK.sub(lambda found: found[1] + _leading(name, found[2], found[3]), shown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Returns the page of a notebook with such links; those of other pages were Markdown before."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    up = "../" * page.file.src_uri.count("/")

    def leading(found: re.Match) -> str:
        target = _leading(f"docs/{page.file.src_uri}", found[2], found[3])
        return found[1] + up + re.sub(r"^(?!files/)(.*)\.(?:md|ipynb)(?=[#\"])", r"\1.html", target)

    return HREF.sub(leading, html)


def _leading(name: str, target: str, after: str) -> str:
    """Returns a link of a file as one from the top of the site; `after` is its heading, if any, and what closes it."""
    place = _place(name, target)
    if _is_of_site(place):
        return PAGES.get(place, place.removeprefix("docs/")) + after
    if (of := MATHEMATICS.fullmatch(place)) and of[1] in mathematics():
        return f"api.md#diffusion_jax.{of[1]}{after[-1]}"
    return f"files/{place}{after}"


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
