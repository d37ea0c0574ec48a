"""What the documents say: links lead somewhere, commands name what exists, and code runs."""

import doctest
import inspect
import pathlib
import re
import runpy
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import diffusion_jax as dj
from diffusion_jax import samplers, schedules
from diffusion_jax.compose import checks, describe
from diffusion_jax.compose.config import FIELDS
from diffusion_jax.data import feed, sources, transforms
from diffusion_jax.jobs import main

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
of_each = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)


def blocks(document: pathlib.Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@of_each
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), f"{document.name} links to {target}"
        headings = (
            [anchor(line.lstrip("# ")) for line in file.read_text().splitlines() if line.startswith("#")] if heading else []
        )
        assert not heading or heading in headings, f"{document.name} links to {target}"


@of_each
def test_nothing_was_left_to_fill_in(document):
    assert not re.findall(r"^[A-Z]{4,}\d*$|TODO|FIXME|XXX", document.read_text(), flags=re.MULTILINE)


@of_each
def test_every_command_is_one_that_main_takes(document):
    """Every `python main.py` line is parsed, its fields checked; a config with an argument, as folder:DIR, is left out.

    A run, as runs/NAME, has the config of its name, or that of digits, where it is given a prompt that of emoji_text.
    """
    text = "\n".join(blocks(document, "sh")).replace("\\\n", " ")
    for line in re.findall(r"^.*python main\.py (.*)$", text, flags=re.MULTILINE):
        arguments = shlex.split(line.partition("#")[0].replace("'", ""))
        if "--help" in arguments or "..." in arguments:
            continue
        named = [word for word in arguments if word.startswith("--config=") and ":" not in word]
        [name] = re.findall(r"--workdir=(?:runs|examples)/(\w+)", line) or ["digits"]
        other = "configs/emoji_text.py" if "sample.prompt" in line else "configs/digits.py"
        known = f"configs/{name}.py" if (ROOT / "configs" / f"{name}.py").exists() else other
        stored = [f"--config={known}"] if not named else []
        _, config, _ = main.parse(["main.py", *stored, *[word for word in arguments if not re.match(r"--config=.*:", word)]])
        checks.check(config)


def test_every_document_has_its_place_on_the_site():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = set(re.findall(r": ([\w./]+)$", nav, flags=re.MULTILINE)) - {"index.md", "api.md"}  # made in docs/site/hooks.py
    notebooks = {str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*.ipynb")}
    assert listed == {file.name for file in DOCUMENTS} - {"README.md", "SECURITY.md"} | notebooks


def test_the_readme_links_every_notebook():
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text())
    assert {str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.ipynb")} <= set(links)


def programs() -> list[str]:
    """Returns what the documents, and the programs themselves, start beside main.py: '-m MODULE' or a file."""
    files = [*DOCUMENTS, *(ROOT / "diffusion_jax").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    text = "\n".join(file.read_text() for file in files)
    return sorted(set(re.findall(r"python (-m diffusion_jax(?:\.\w+)+\b(?!\.<)|benchmarks/\w+\.py)", text)))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("program", programs())
def test_every_program_that_is_named_starts(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path[1:], str(ROOT)])
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    code = 0
    try:
        if program.startswith("-m "):
            runpy.run_module(program.removeprefix("-m "), run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / program), run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    assert code == 0 and len(capsys.readouterr().out) > 100


@of_each
def test_every_field_that_is_named_exists(document):
    """`section.field` with its value or without; a section that is also a module may name what that has."""
    sections = "|".join(sorted({field.split(".")[0] for field in FIELDS if "." in field}))
    for name in re.findall(rf"`((?:{sections})\.\w+)(?: ?=[^`]*)?`", document.read_text()):
        section, _, rest = name.partition(".")
        module = ROOT / "diffusion_jax" / f"{section}.py"
        is_of_module = module.exists() and f"def {rest}(" in module.read_text()
        assert name in FIELDS or rest in ("py", "png", "json", "md") or is_of_module, f"{document.name} names {name}"


def test_the_recipes_of_contributing_pass_their_own_tests(tmp_path):
    """As pasted into the files that they are for."""
    names = vars(schedules) | vars(samplers) | vars(sources)
    names |= {"dj": dj, "oracles": oracles, "feed": feed, "transforms": transforms}
    for block in blocks(ROOT / "CONTRIBUTING.md", "python"):
        exec(block, names)
    tests = [function for name, function in names.items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test(tmp_path) if inspect.signature(test).parameters else test()


def test_the_page_of_the_config_is_up_to_date():
    assert (ROOT / "docs" / "config.md").read_text() == describe.as_markdown(), describe.__doc__


def test_the_first_lines_of_the_readme_run(monkeypatch):
    """Of fewer images than there."""
    monkeypatch.chdir(ROOT)
    (names, lines) = ({}, blocks(ROOT / "README.md", "python")[0])
    exec(lines.replace("sample(64, ", "sample(3, batch_per_device=1, ").replace("num_steps=50", "num_steps=5"), names)
    assert names["images"].shape == (3, 8, 8, 1) and np.std(names["images"]) > 50


@pytest.mark.parametrize(
    "document",
    ["docs/own_network.md", *(pytest.param(name, marks=pytest.mark.slow) for name in ("README.md", "docs/guidance.md"))],
)
def test_the_python_of_a_document_runs(document, monkeypatch):
    """All blocks in one go, as a reader would paste them."""
    monkeypatch.chdir(ROOT)
    names = {}
    for block in blocks(ROOT / document, "python"):
        exec(block, names)
        assert names["images"].shape[1:] in ((8, 8, 1), (32, 32, 3))


EXAMPLES = [
    dj.sample,
    dj.make_denoiser,
    dj.denoiser.make_log_prob,
    dj.losses.cross_entropy,
    dj.guidance.classifier_free,
    dj.ddim,
    dj.dpm_solver,
    dj.chain,
    dj.simple,
    dj.load,
    dj.likelihood.bound,
]


@pytest.mark.parametrize("function", EXAMPLES, ids=lambda function: function.__name__)
def test_the_example_of_a_docstring_runs(function, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {"dj": dj, "jax": jax, "jnp": jnp, "np": np}
    [example] = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=names)
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0
