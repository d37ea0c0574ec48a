"""The layers of docs/architecture.md: a file imports only from lower ones."""

import ast
import graphlib
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

import diffusion_jax

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "diffusion_jax"


def rooms() -> dict[str, int]:
    """Returns the place of each room, or file at the top, in the table of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("| room |") :].split("\n\n")[0].splitlines()[2:]
    cells = [row.split("|")[1] for row in table]
    return {name.strip("/"): place for place, cell in enumerate(cells) for name in re.findall(r"`(.*?)`", cell)}


ROOMS = rooms()


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(file: pathlib.Path) -> str:
    """Returns 'runs.storage' for diffusion_jax/runs/storage.py."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").strip(".")


NAMES = {name_of(file) for file in modules()}


def imported(file: pathlib.Path) -> set[str]:
    """Returns the modules of diffusion_jax that a file imports: 'process', 'runs.storage', ..."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[2] for name in node.names if name.name.startswith("diffusion_jax.")}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diffusion_jax":
            room = node.module.partition(".")[2]
            inside = {f"{room}.{name.name}".strip(".") for name in node.names}
            found |= {name if name in NAMES else room for name in inside}
    return found - {""}


def part_of(file: pathlib.Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_downwards(file):
    if file == PACKAGE / "__init__.py":
        return
    for other in imported(file):
        room = other.split(".")[0]
        assert room in ROOMS, f"{file} imports {other}, which has no room"
        assert ROOMS[room] <= ROOMS[part_of(file)], f"{file} imports {other}, which is of a higher room"


def test_no_circle():
    arrows = {name_of(file): imported(file) for file in modules() if name_of(file)}
    graphlib.TopologicalSorter(arrows).prepare()


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("flax", {"networks"}),
        ("clu", {"runs"}),
        ("orbax", {"runs"}),
        ("etils", {"runs"}),
        ("ml_collections", {"compose"}),
    ],
)
def test_a_library_is_known_to_one_part_only(library, allowed):
    def uses(file):
        names = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
        roots = {(node.module or "").split(".")[0] for node in names if isinstance(node, ast.ImportFrom)}
        return library in roots | {name.name.split(".")[0] for n in names if isinstance(n, ast.Import) for name in n.names}

    assert {part_of(file) for file in modules() if uses(file)} <= allowed


def test_every_file_at_the_top_and_every_folder_has_its_room():
    parts = {part_of(file) for file in modules()} - {"__init__"}
    assert parts == set(ROOMS)


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
                assert not of_files or name_of(file) == "runs.storage", f"{file} imports {names}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                harmless = {"PathLike", "cpu_count", "environ", "getpid", "kill", "readlink", "sched_getaffinity"}
                harmless |= {"_exit", "sysconf"}
                assert node.attr in harmless or name_of(file) == "runs.storage", f"{file} uses os.{node.attr}"


def test_every_public_name_has_a_docstring():
    for name in diffusion_jax.__all__:
        assert getattr(diffusion_jax, name).__doc__ or name == "Denoiser", f"{name} has no docstring"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        diffusion_jax.nothing  # noqa: B018


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


def test_checking_a_config_imports_jax_and_nothing_slower():
    """So that a mistyped command answers soon."""
    program = "import sys, main; assert not {'flax', 'optax', 'orbax', 'tensorflow', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_every_module_says_what_it_is():
    for file in modules():
        assert ast.get_docstring(ast.parse(file.read_text())), file
        importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


EXECUTES = {"pickle", "_pickle", "cPickle", "cloudpickle", "marshal", "shelve", "dill", "joblib", "torch", "yaml"}
PEERS = {
    "inception_parity.py",
    "parity_autoencoder.py",
    "parity_ncsnpp.py",
    "parity_stable_diffusion.py",
    "profiles.py",
    "side_by_side_peer.py",
    "text_peers.py",
    "torch_peer.py",
}
PEERS |= {"weights_peers.py"}  # PyTorch is what they compare with; files they read as the rest does, or by safetensors


def test_no_module_could_execute_a_file():
    """No pickle and its like, no eval, and every np.load refuses pickles."""
    folders = [ROOT / name for name in ("diffusion_jax", "benchmarks", "configs")]
    for file in [ROOT / "main.py", *(file for folder in folders for file in folder.rglob("*.py"))]:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        allowed = {"torch"} if file.name in PEERS else set()
        assert not EXECUTES & {name.split(".")[0] for name in names} - allowed, file
        calls = [(ast.unparse(node.func), node) for node in nodes if isinstance(node, ast.Call)]
        assert not {name for name, _ in calls} & {"eval", "exec", "compile", "__import__", "torch.load"}, file
        for load in [call for name, call in calls if name in ("np.load", "numpy.load")]:
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in load.keywords}
            assert given.get("allow_pickle") == "False", f"{file} {load.lineno}"
