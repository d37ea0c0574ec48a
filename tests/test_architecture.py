"""The layers of docs/architecture.md: a file imports only from lower ones."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

import diffusion_jax

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "diffusion_jax"


def layers() -> dict[str, int]:
    """Returns the layer of each part, as docs/architecture.md has it."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d) \| (.*?) \|", text, flags=re.MULTILINE)
    return {
        name.strip("/").removesuffix(".py"): int(layer) for layer, names in rows for name in re.findall(r"`(.*?)`", names)
    }


LAYERS = layers()


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imported(file: pathlib.Path) -> set[str]:
    """Returns the parts of diffusion_jax that a file imports: 'models', 'process', ..."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("diffusion_jax.")}
        if isinstance(node, ast.ImportFrom) and node.module == "diffusion_jax":
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffusion_jax."):
            found.add(node.module.split(".")[1])
    return found


def part_of(file: pathlib.Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_downwards(file):
    if file == PACKAGE / "__init__.py":
        return
    part = part_of(file)
    for other in imported(file) - {part}:
        assert other in LAYERS, f"{part} imports {other}, which has no layer"
        same_layer_is_fine = LAYERS[part] == LAYERS[other] and part not in imported(module_file(other))
        assert LAYERS[other] < LAYERS[part] or same_layer_is_fine, f"{part} (layer {LAYERS[part]}) imports {other}"


def module_file(part: str) -> pathlib.Path:
    return PACKAGE / f"{part}.py" if (PACKAGE / f"{part}.py").exists() else PACKAGE / part / "__init__.py"


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("flax", {"models"}),
        ("clu", {"logs"}),
        ("orbax", {"checkpoint"}),
        ("etils", {"storage"}),
        ("ml_collections", {"command"}),
    ],
)
def test_a_library_is_known_to_one_part_only(library, allowed):
    def uses(file):
        names = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
        roots = {(node.module or "").split(".")[0] for node in names if isinstance(node, ast.ImportFrom)}
        return library in roots | {name.name.split(".")[0] for n in names if isinstance(n, ast.Import) for name in n.names}

    assert {part_of(file) for file in modules() if uses(file)} <= allowed


def test_every_part_has_its_layer():
    parts = {part_of(file) for file in modules()} - {"__init__"}
    assert parts | {"main"} == set(LAYERS)


def test_functions_stop_at_sixty_lines_and_files_at_four_hundred():
    for file in modules():
        text = file.read_text()
        assert text.count("\n") <= 400, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{file}: {node.name}"


def test_only_storage_touches_files():
    """open() and os.* on a path would miss gs://."""
    for file in modules():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", f"{file} calls open()"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {name.name for name in node.names} | {getattr(node, "module", "")}
                of_files = names & {"pathlib", "shutil", "glob", "os.path", "io.open"}
                assert not of_files or part_of(file) == "storage", f"{file} imports {names}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                harmless = {"PathLike", "environ", "getpid", "kill", "readlink", "sysconf", "_exit"}
                assert node.attr in harmless or part_of(file) == "storage", f"{file} uses os.{node.attr}"


def test_public_names():
    assert diffusion_jax.__all__ == [
        *["Denoiser", "Level", "Model", "Prediction", "Sampler", "Samples", "ancestral", "at", "clip_x_0", "continuous"],
        *[
            "cosine",
            "ddim",
            "denoiser",
            "diffuse",
            "dpm_solver",
            "from_betas",
            "heun",
            "images",
            "linear",
            "linear_rescaled",
            "load",
            "losses",
            "make_denoiser",
        ],
        *["model", "posterior", "process", "sample", "samplers", "schedules", "simple", "solvers", "streams"],
        *["timesteps", "trailing", "unipc"],
    ]
    for name in diffusion_jax.__all__:
        assert getattr(diffusion_jax, name).__doc__ or name == "Denoiser", f"{name} has no docstring"


def test_every_module_is_there_without_importing_it_first():
    program = (
        "import diffusion_jax as dj; dj.likelihood.bound, dj.build.levels, dj.models.unet; assert not hasattr(dj, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_library_imports_without_the_optional_packages():
    """GPU machines often have none of them."""
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in modules()]
    program = f"""
import importlib, sys
for blocked in ("tensorflow", "clu", "tensorflow_datasets", "grain", "torch"):
    sys.modules[blocked] = None
for name in {names!r}:
    importlib.import_module(name.removesuffix(".__init__"))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_checking_a_config_imports_no_jax():
    """So that a mistyped command answers at once."""
    program = "import sys, main; from diffusion_jax import schema, storage; assert not {'jax', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_every_module_says_what_it_is():
    for file in modules():
        assert ast.get_docstring(ast.parse(file.read_text())), file
        importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
