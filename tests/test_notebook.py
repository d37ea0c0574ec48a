"""The notebook runs, and what it and docs/theory.md link to is there."""

import importlib
import json
import pathlib
import re

import matplotlib
import pytest

DOCS = pathlib.Path(__file__).parents[1] / "docs"
CELLS = json.loads((DOCS / "quickstart.ipynb").read_text())["cells"]
THEORY = (DOCS / "theory.md").read_text()


def text_of(kind: str) -> list[str]:
    """Returns the cells of a kind, 'code' or 'markdown'."""
    return ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == kind]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*non-interactive")
def test_the_notebook_runs():
    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {}
    for number, source in enumerate(text_of("code")):
        exec(compile(source, f"quickstart.ipynb, code cell {number}", "exec"), names)
        if number == 0:
            assert names["NUM_STEPS"] > 2
            names["NUM_STEPS"] = 2
    plt.close("all")
    matplotlib.use(before)
    spread = names["covariance"].diagonal()
    assert abs(names["found"].diagonal() - spread).max() < 0.1 * spread.max()  # 4,000 draws: 4.5 standard errors


def test_the_notebook_is_small():
    assert (DOCS / "quickstart.ipynb").stat().st_size < 300_000


@pytest.mark.parametrize("text", ["\n".join(text_of("markdown")), THEORY], ids=["quickstart", "theory"])
def test_links_lead_to_files_and_headings(text):
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    anchors = {"#" + heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}
    for link in links:
        assert link in anchors if link.startswith("#") else (DOCS / link).exists(), link


@pytest.mark.parametrize(("name", "file"), sorted(set(re.findall(r"\[`(\w+\.\w+)`\]\(\.\./(\S+)\.py\)", THEORY))))
def test_a_name_of_the_theory_is_in_the_file_that_it_links(name, file):
    module, _, member = name.partition(".")
    assert file.endswith(f"/{module}")
    assert hasattr(importlib.import_module(file.replace("/", ".")), member)
