"""Molecules: the network's symmetries, the subspace of arrays about their centre, bonds, QM9 out of its package, a run."""

import functools
import io
import math
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main
from diffusion_jax import denoiser, multistep, networks, process, samplers
from diffusion_jax.compose import likelihoods, processes, sampling
from diffusion_jax.compose.config import Config
from diffusion_jax.data import media, molecules, sources
from diffusion_jax.samplers import Interval
from diffusion_jax.tools import fetch

ROWS = 6
SMALL = {"model": {"kind": "egnn", "channels": 4, "depth": 1, "num_classes": ROWS + 1}}
SMALL["data"] = {"medium": "molecules", "source": "npz", "image_size": (ROWS,), "channels": 8, "random_flip": False}
SMALL["sample"] = {"clip": "none"}
WATER = [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]]
METHANE = [[0, 0, 0], *(0.629 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]))]
ETHYNE = [[0, 0, 0.6], [0, 0, -0.6], [0, 0, 1.66], [0, 0, -1.66]]


def array_of(symbols, places, num_rows=ROWS):
    places = np.array(places) - np.mean(places, axis=0)
    return molecules.padded([molecules.TYPES.index(symbol) for symbol in symbols], places, num_rows)


MOLECULES = np.stack([array_of("OHH", WATER), array_of("CHHHH", METHANE), array_of("CCHH", ETHYNE)])
NUM_ATOMS = np.array([3, 5, 4])


def configured(**sections):
    config = Config()
    for section, values in {**SMALL, **sections}.items():
        config = config.with_values(section, **values)
    return config


def test_the_network_keeps_rotations_reflections_translations_and_the_order_of_atoms():
    network = networks.egnn((ROWS, 8), channels=8, depth=2, num_classes=ROWS + 1, dtype="float32")
    params = jax.jit(network.init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), params)
    apply = jax.jit(lambda x, label: network.apply(params, x, jnp.full(2, 3.0), {"label": label}))
    x, label = jax.random.normal(jax.random.key(2), (2, ROWS, 8)), jnp.array([4, 6])
    output = apply(x, label)
    assert np.all(output[0, 4:] == 0) and np.all(np.std(output, axis=(1, 2)) > 0.1)

    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for orthogonal in (turn, turn * [-1, 1, 1]):  # one of them reflects
        moved = x.at[..., :3].set(x[..., :3] @ orthogonal + jnp.array([1.0, -2.0, 3.0]))
        expected = output.at[..., :3].set(output[..., :3] @ orthogonal)
        np.testing.assert_allclose(apply(moved, label), expected, atol=1e-5)
    order = np.array([2, 0, 3, 1, 4, 5])
    np.testing.assert_allclose(apply(x[:, order], label), output[:, order], atol=1e-5)
    garbage = x.at[0, 4:].set(jnp.nan)  # after the atoms
    np.testing.assert_allclose(apply(garbage, label), output, atol=1e-6)


def test_a_projection_leaves_what_lies_in_the_subspace_and_has_its_dimension():
    num_atoms = jnp.array([1, 4, 6])
    basis = jnp.eye(ROWS * 8).reshape(-1, 1, ROWS, 8).repeat(3, axis=1)
    matrices = np.moveaxis(jax.vmap(lambda x: molecules.project(x, num_atoms))(basis), 1, 0).reshape(3, ROWS * 8, ROWS * 8)
    np.testing.assert_allclose(matrices, matrices.swapaxes(1, 2), atol=1e-6)
    np.testing.assert_allclose(matrices @ matrices, matrices, atol=1e-6)
    np.testing.assert_allclose(np.trace(matrices, axis1=1, axis2=2), molecules.num_values(num_atoms), atol=1e-5)
    moved = MOLECULES + np.where(molecules.elements(MOLECULES)[..., None] >= 0, [1, -2, 3, 0, 0, 0, 0, 0], 0)
    np.testing.assert_allclose(molecules.centred(moved), MOLECULES, atol=1e-6)


SAMPLERS = {
    "ancestral": samplers.ancestral(variance="large"),
    "dpm_solver_sde": multistep.dpm_solver_sde(),
    "unipc": multistep.unipc(),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_does_in_the_subspace_what_it_does_with_noise_of_the_subspace(name):
    """Which is why no sampler needs to know of it: each acts on every coordinate alike, whatever basis they have."""
    of, project = process.vp(), functools.partial(molecules.project, num_atoms=jnp.array([4, 6]))
    network = denoiser.make_denoiser(lambda x_t, c_noise: jnp.tanh(project(x_t)), denoiser.V)
    denoise = denoiser.limit_x_0(network, project)
    grid, draws = of.level(np.array([1.0, 0.6, 0.2, 0.0])), jax.random.normal(jax.random.key(0), (4, 2, ROWS, 8))
    sampler, ends = SAMPLERS[name], []
    for noise_of in (lambda x: x, project):
        state = sampler.init(noise_of(draws[3]), grid)
        for i in range(3):
            t, s = (process.rows(grid, jnp.int32(row)) for row in (i, i + 1))
            step = Interval(t, s, jnp.int32(i), jnp.int32(2 - i))
            state, _ = sampler.step(denoise, state, step, lambda k, i=i, noise_of=noise_of: noise_of(draws[i]))
        ends.append(sampler.x_of(state))
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-5)
    np.testing.assert_allclose(ends[0], project(ends[0]), atol=1e-6)


def test_a_gaussian_of_the_subspace_has_the_likelihood_and_the_samples_that_the_closed_form_says():
    """A new network says 0. To `edm` that is N(0, 1/4), here of the 8 n - 3 dimensions that n atoms have."""
    config = configured(process={"kind": "ve"}, likelihood={"kind": "pf_ode", "tolerance": 1e-4, "probes": "basis"})
    config = config.with_values("sample", sampler="unipc", grid="karras", num_steps=30)
    config = Config.of_flat({**config.flat(), "predicts": "edm"})
    params = jax.jit(processes.network(config).init)(jax.random.key(0))
    batch = {"x": jnp.asarray(MOLECULES), "cond": {"label": jnp.asarray(NUM_ATOMS)}}
    found = jax.jit(likelihoods.likelihood_of(config))(params, 0, jnp.arange(3), batch)
    size, variance = molecules.num_values(NUM_ATOMS), 0.5**2 + 0.002**2  # at the first level
    log_density = -(np.sum(MOLECULES**2, axis=(1, 2)) / variance + size * math.log(2 * math.pi * variance)) / 2
    np.testing.assert_allclose(found["bits"], -log_density / size / math.log(2), rtol=2e-3)

    numbers, cond = jnp.arange(2000), {"label": jnp.full(2000, 4)}
    generate = sampling.make_generate_given(config)
    x, finite = jax.jit(lambda cond: generate(params, 0, numbers, cond, sampling.grid(config)))(cond)
    assert np.all(finite) and np.all(x[:, 4:] == 0)
    np.testing.assert_allclose(np.mean(x[..., :3], axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.mean(np.sum(x**2, axis=(1, 2))), 0.25 * (8 * 4 - 3), rtol=0.03)


def test_bonds_follow_from_types_and_distances():
    orders = molecules.bond_orders(MOLECULES)
    assert orders[0, 0].tolist() == [0, 1, 1, 0, 0, 0] and orders[1, 0].tolist() == [0, 1, 1, 1, 1, 0]
    assert orders[2, 0].tolist() == [0, 3, 1, 0, 0, 0] and np.array_equal(orders, orders.swapaxes(1, 2))
    stable, are_atoms = molecules.stability(MOLECULES)
    assert np.array_equal(stable, are_atoms) and are_atoms.sum(axis=1).tolist() == NUM_ATOMS.tolist()
    torn = MOLECULES[1].copy()
    torn[1, :3] *= 1.5  # a hydrogen of methane
    assert molecules.stability(torn[None])[0].tolist() == [[False, False, True, True, True, False]]


def test_a_molecule_is_written_for_other_programs_and_drawn():
    assert molecules.xyz(MOLECULES[0]).decode().splitlines()[:3] == ["3", "", "O 0.0000 0.0000 0.3910"]
    picture, red = molecules.grid(MOLECULES, num_columns=3), np.array([0xE0, 0x10, 0x10])
    are_red = [np.any(np.all(picture[:, 2 + 114 * i :][:, :112] == red, axis=-1)) for i in range(3)]
    assert are_red == [True, False, False]
    assert molecules.grid(np.zeros((1, ROWS, 8), np.float32)).min() == 255


def test_qm9_is_read_out_of_its_package(tmp_path, capsys):
    row = '"{name}.xyz",1,"C","InChI",{num},"[]","{elements}","{places}"\n'
    methane = {"elements": str(list("CHHHH")), "places": str(np.array(METHANE).tolist()).replace("0.0,", "0.,"), "num": 5}
    water = {"elements": str(list("OHH")), "places": str(WATER), "num": 3}
    head = "XYZ_file,Index,SMILES,InChi,N_atoms,Stoichiometry,Elements,XYZ_Ang\n"
    tables = {f"qm9pack/data/qm9_part{part}.csv": head + row.format(name=part, **methane) * 4 for part in (1, 2, 3)}
    tables["qm9pack/data/qm9_part3.csv"] += row.format(name="water", **water) * 8
    said = {"qm9pack-1.0.3.dist-info/METADATA": "Name: qm9pack\nVersion: 1.0.3\n"}
    said["qm9pack-1.0.3.dist-info/LICENSE"] = "MIT License"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in {**tables, **said}.items():
            archive.writestr(name, text)
    package = tmp_path / "qm9pack.whl"
    package.write_bytes(file.getvalue())

    assert fetch.main(["fetch", "qm9", f"--out={tmp_path / 'qm9'}", f"--package={package}"]) == 0
    assert "15 to train with, 2 held out, 2 classes" in capsys.readouterr().out
    parts = [
        sources.npz(path=str(tmp_path / "qm9" / f"qm9{part}.npz"), medium=media.MOLECULES)
        for part in ("", "_valid", "_test")
    ]
    order = np.split(np.random.RandomState(0).permutation(20), [15, 18])
    for of, rows in zip(parts, order, strict=True):
        for number, row_number in enumerate(rows):
            expected = array_of("CHHHH", METHANE, 29) if row_number < 12 else array_of("OHH", WATER, 29)
            found = of.read(number)
            np.testing.assert_allclose(molecules.centred(found["x"][None])[0], expected, atol=1e-6)
            assert found["cond"]["label"] == np.sum(np.any(expected != 0, axis=1))
    assert (tmp_path / "qm9" / "LICENCE.txt").read_text() == "MIT License"

    package.write_bytes(file.getvalue().replace(b"qm9pack-1.0.3.dist-info/METADATA", b"qm9pack-1.0.3.dist-info/NOTADATA"))
    assert fetch.main(["fetch", "qm9", f"--out={tmp_path / 'other'}", f"--package={package}"]) == 2
    assert "is damaged, or not as expected" in capsys.readouterr().err


FLAGS = [
    "train.num_steps=2",
    "train.batch_size=2",
    "train.checkpoint_every=2",
    "train.sample_every=100",
    "train.log_every=2",
]
FLAGS += ["model.channels=8", "model.depth=1", f"model.num_classes={ROWS + 1}", f"data.image_size=({ROWS},)"]
FLAGS += ["train.tensorboard=False", "sample.sampler=unipc", "sample.num_steps=3", "sample.num_images=4"]
FLAGS += ["sample.batch_per_device=4", "sample.grid=trailing", "process.num_steps=20"]


@pytest.mark.slow
def test_a_run_on_molecules_draws_as_many_atoms_as_the_held_out_molecules_have(tmp_path, capsys, one_device):
    file, out = tmp_path / "molecules.npz", tmp_path / "out"
    np.savez(file, arr_0=MOLECULES)
    flags = [f"--config.{flag}" for flag in [*FLAGS, f"data.path={file}", f"data.held_out={file}"]]
    workdir = f"--workdir={tmp_path / 'run'}"
    assert main.main(["main.py", "--config=configs/qm9.py", workdir, *flags]) == 0
    assert "npz: 3 molecules, 6 x 8, on the devices" in capsys.readouterr().out
    assert main.main(["main.py", "--mode=sample", workdir, f"--out={out}"]) == 0
    with np.load(out / f"samples_4x{ROWS}x8.npz") as dump:
        assert dump["arr_1"].tolist() == [3, 5, 4, 3]
        assert np.sum(np.any(dump["arr_0"] != 0, axis=2), axis=1).tolist() == [3, 5, 4, 3]
        np.testing.assert_allclose(np.sum(dump["arr_0"][..., :3], axis=1), 0, atol=1e-4)
    assert (out / "001.xyz").read_text().startswith("5\n\n") and (out / "grid.png").exists()


@pytest.mark.parametrize(
    ("flag", "sentence"),
    {
        "model.num_classes=6": "config field model.num_classes = 6 must be 30: the label is the number of atoms",
        "model.channels=9": "config field model.channels = 9 must be even",
        "data.channels=7": "say [29, 7], but the data are [6, 8]; set data.image_size = (6,) and data.channels = 8.",
        "sample.clip=static": "config field sample.clip = 'static' limits x_0 to [-1, 1], and molecules have no limits",
        "model.null_label=True": "config field model.null_label = True is not for molecules, whose label is their size; set",
        "sample.label=0": "config field sample.label = 0 is the size of molecules; it must be at least 1, or -1.",
        "model.kind=mlp": "config field model.kind = 'mlp' does not fit data.medium = 'molecules'; it must be 'egnn'.",
    }.items(),
)
def test_what_molecules_have_not_is_one_sentence(tmp_path, capsys, flag, sentence):
    file = tmp_path / "molecules.npz"
    np.savez(file, arr_0=MOLECULES)
    flags = [f"--config.data.path={file}", "--config.data.held_out=", f"--config.{flag}"]
    assert main.main(["main.py", "--config=configs/qm9.py", f"--workdir={tmp_path / 'w'}", *flags]) == 2
    assert sentence in capsys.readouterr().err
