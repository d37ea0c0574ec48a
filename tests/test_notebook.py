"""The notebooks run, were run, and what they and docs/theory.md name and link to is there."""

import ast
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import matplotlib
import pytest

import diffusion_jax as dj
from diffusion_jax.compose.config import FIELDS

DOCS = pathlib.Path(__file__).parents[1] / "docs"
NOTEBOOKS = [DOCS / "quickstart.ipynb", *sorted((DOCS / "tutorials").glob("*.ipynb"))]
THEORY = DOCS / "theory.md"
of_each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)


def cells(notebook: pathlib.Path, kind: str) -> list[dict]:
    """Returns the cells of a kind, 'code' or 'markdown'."""
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]


def text_of(notebook: pathlib.Path, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(notebook, kind)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*non-interactive")
def test_the_quickstart_runs():
    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {}
    for number, source in enumerate(text_of(DOCS / "quickstart.ipynb", "code")):
        exec(compile(source, f"quickstart.ipynb, code cell {number}", "exec"), names)
        if number == 0:
            assert names["NUM_STEPS"] > 2
            names["NUM_STEPS"] = 2
    plt.close("all")
    matplotlib.use(before)
    spread = names["covariance"].diagonal()
    assert abs(names["found"].diagonal() - spread).max() < 0.1 * spread.max()  # 4,000 draws: 4.5 standard errors


@pytest.mark.slow
def test_the_tutorial_of_own_parts_runs_whole():
    """In a process of its own: this one has its compiler set for tests. The other tutorials take minutes."""
    fact = "assert errors['Adams-Bashforth (ours)'][-1] < errors['DDIM'][-1] / 10"
    source = "\n".join([*text_of(DOCS / "tutorials" / "own_parts.ipynb", "code"), fact])
    of_tests = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {name: value for name, value in os.environ.items() if name not in of_tests} | {"MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=DOCS / "tutorials", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@of_each
def test_a_notebook_was_run_in_order_and_without_errors(notebook):
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert {output["output_type"] for output in cell["outputs"]} <= {"stream", "display_data", "execute_result"}
        assert all(output.get("name") != "stderr" for output in cell["outputs"])


@of_each
def test_a_notebook_is_small_and_names_no_machine(notebook):
    assert notebook.stat().st_size < 300_000
    assert not re.findall(r"(?<![\w.])/(?:tmp|work|root|home|usr|opt)/\S*", notebook.read_text())


@of_each
def test_every_name_of_the_library_in_a_notebook_exists(notebook):
    """`dj.samplers.heun`, and what is imported from the package."""
    for node in ast.walk(ast.parse("\n".join(text_of(notebook, "code")))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "diffusion_jax":
            for name in node.names:
                if not hasattr(importlib.import_module(node.module), name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
        if isinstance(node, ast.Attribute) and re.fullmatch(r"dj(\.\w+)+", path := ast.unparse(node)):
            of = dj
            for part in path.split(".")[1:]:
                assert hasattr(of, part), path
                of = getattr(of, part)


@of_each
def test_every_command_in_a_notebook_names_what_exists(notebook):
    source = "\n".join(text_of(notebook, "code"))
    for program in re.findall(r"python -m (diffusion_jax[\w.]+)", source):
        assert importlib.util.find_spec(program), program
    for field in re.findall(r"--config\.([\w.]+)=", source):
        assert field in FIELDS, field
    for file in re.findall(r"(?:configs|docs)/\w+[\w/]*\.py", source):
        assert (DOCS.parent / file).exists(), file


@pytest.mark.parametrize("file", [*NOTEBOOKS, THEORY], ids=lambda file: file.stem)
def test_links_lead_to_files_and_headings(file):
    text = file.read_text() if file == THEORY else "\n".join(text_of(file, "markdown"))
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    anchors = {"#" + heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}
    for link in links:
        there = file.parent / link.partition("#")[0]
        assert link in anchors if link.startswith("#") else link.startswith("https://") or there.exists(), link


@pytest.mark.parametrize(
    ("name", "file"), sorted(set(re.findall(r"\[`(\w+\.\w+)`\]\(\.\./(\S+)\.py\)", THEORY.read_text())))
)
def test_a_name_of_the_theory_is_in_the_file_that_it_links(name, file):
    module, _, member = name.partition(".")
    assert file.endswith(f"/{module}")
    assert hasattr(importlib.import_module(file.replace("/", ".")), member)
