"""Every way of editing with every sampler: the table of docs/editing.md, cell by cell."""

import functools
import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from PIL import Image

from diffusion_jax import editing, grids, multistep, operators, process, samplers, schedules, streams
from diffusion_jax.errors import UserError

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs" / "editing.md"
TEXT = DOCUMENT.read_text()
CHAIN = process.chain(schedules.cosine(1000))
TIMES = grids.trailing(CHAIN, 100)
SAMPLERS = {
    "ancestral": samplers.ancestral(variance="small"),
    "ddim": samplers.ddim(),
    "heun": samplers.heun(),
    "adaptive": samplers.adaptive(CHAIN, tolerance=1e-3),
    "dpm_solver": multistep.dpm_solver(order=3),
    "dpm_solver_singlestep": multistep.dpm_solver_singlestep(order=3),
    "dpm_solver_sde": multistep.dpm_solver_sde(),
    "unipc": multistep.unipc(order=3),
}
MASK = np.arange(64).reshape(8, 8, 1) >= 24
KNOWN = operators.known(MASK)
DENOISE = oracles.gaussian()


def table():
    """Returns the cells of the table, by (way, sampler)."""
    lines = TEXT[TEXT.index("| | `ancestral`") :].split("\n\n")[0].splitlines()
    rows = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], name): cell for row in rows[2:] for name, cell in zip(rows[0][1:], row[1:], strict=True)}


def draws(num=40):
    """Returns an image of the data, x_T, keys and the grid."""
    keys = streams.keys(0, "sampler", jnp.arange(num))
    noise = jax.random.normal(jax.random.key(1), (num, 8, 8, 1))
    image = oracles.MEAN + oracles.STD * jax.random.normal(jax.random.key(2), (1, 8, 8, 1))
    return image, noise, keys, CHAIN.level(TIMES)


def consistent(sampler):
    image, noise, keys, grid = draws()
    return samplers.sample(editing.consistent(DENOISE, image * ~MASK, KNOWN), sampler, noise, grid, keys)


def pseudoinverse_guided(sampler):
    image, noise, keys, grid = draws()
    return samplers.sample(editing.pseudoinverse_guided(DENOISE, image * ~MASK, KNOWN), sampler, noise, grid, keys)


def posterior_sampling(sampler):
    image, noise, keys, grid = draws()
    return samplers.sample(DENOISE, editing.posterior_sampling(sampler, image * ~MASK, KNOWN, scale=0.3), noise, grid, keys)


def replaced(sampler):
    image, noise, keys, grid = draws()
    return samplers.sample(DENOISE, editing.replaced(sampler, image, MASK), noise, grid, keys)


def repainted(sampler):
    image, noise, keys, _ = draws()
    grid = CHAIN.level(grids.jumps(TIMES, jump_length=10, num_resamples=2))
    return samplers.sample(DENOISE, editing.replaced(sampler, image, MASK), noise, grid, keys)


def from_image(sampler):
    _, noise, keys, grid = draws()
    image = oracles.MEAN + oracles.STD * jax.random.normal(jax.random.key(3), noise.shape)
    return editing.from_image(DENOISE, sampler, image, noise, grid, keys, strength=0.5)


def interpolated(sampler):
    image, noise, _, grid = draws()
    return editing.interpolated(DENOISE, sampler, (image, noise[:1]), jnp.array([0.0, 0.5, 1.0]), grid)


WAYS = {
    "consistent": consistent,
    "pseudoinverse_guided": pseudoinverse_guided,
    "posterior_sampling": posterior_sampling,
    "replaced": replaced,
    "replaced on grids.jumps": repainted,
    "from_image, mixed": from_image,
    "inverted, interpolated": interpolated,
}
CELLS = table()


def test_the_table_has_every_way_and_every_sampler():
    assert list(CELLS) == list(itertools.product(WAYS, SAMPLERS)) and set(CELLS.values()) == {"yes", "refused"}


@functools.cache
def found(way, sampler):
    return jax.jit(lambda: WAYS[way](SAMPLERS[sampler]))()


def check_free(x):
    """2,560 values or 1,600 that are free: standard errors are 0.013 of the mean and 0.009 of the spread; tolerances 4 of
    them and more, for what 100 steps leave."""
    np.testing.assert_allclose(np.mean(x), oracles.MEAN, atol=0.06)
    np.testing.assert_allclose(np.std(x), oracles.STD, atol=0.05)


def is_slow(sampler):
    """Of the solvers one is tried always."""
    return [pytest.mark.slow] * (sampler in ("adaptive", "dpm_solver", "dpm_solver_singlestep"))


@pytest.mark.parametrize(
    ("way", "sampler"), [pytest.param(*cell, marks=is_slow(cell[1])) for cell, text in CELLS.items() if text == "yes"]
)
def test_a_way_works_with_a_sampler(way, sampler):
    """Data of independent pixels: free ones keep their law, known ones are known."""
    got, (image, noise, _, _) = found(way, sampler), draws()
    if way == "inverted, interpolated":
        np.testing.assert_allclose(got.x[::2], jnp.concatenate([image, noise[:1]]), atol=0.1)
    elif way == "from_image, mixed":
        check_free(got.x)
    else:
        check_free(got.x[:, 3:])
        away = np.max(np.abs(got.x[:, :3] - image[:, :3]))
        assert away <= {"pseudoinverse_guided": 2e-3, "posterior_sampling": 0.5}.get(way, 0.0)
    assert got.num_evaluations > 0


@pytest.mark.parametrize(("way", "sampler"), [cell for cell, text in CELLS.items() if text == "refused"])
def test_a_way_is_refused_where_the_table_says_so(way, sampler):
    with pytest.raises(UserError, match="is impossible with a s"):
        WAYS[way](SAMPLERS[sampler])


@pytest.mark.slow
def test_the_python_of_the_document_runs(monkeypatch, tmp_path, one_device):
    import diffusion_jax as dj

    files, with_model, snippet = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(files, {})
    sizes = {str(file.relative_to(tmp_path)): Image.open(file).size for file in tmp_path.rglob("*.png")}
    photos = {f"photos/{number}.png": (8, 8) for number in range(4)}
    tops = {f"tops/{number}.png": (8, 4) for number in range(4)}
    assert sizes == photos | tops | {"small.png": (4, 4), "mask.png": (8, 8)}
    monkeypatch.chdir(DOCUMENT.parents[1])
    names = {"dj": dj, "images": np.full((2, 8, 8, 1), 200, np.uint8), "mask": np.asarray(MASK)}
    exec(with_model.replace("num_steps=100", "num_steps=2"), names)
    np.testing.assert_array_equal(names["filled"][:, :3], 200)

    image, noise, keys, _ = draws(2)
    names = {"dj": dj, "np": np, "process": CHAIN, "grid": CHAIN.level(grids.trailing(CHAIN, 8)), "keys": keys}
    names |= {"denoise": DENOISE, "image": image.repeat(2, 0), "mask": MASK, "x_T": noise}
    exec(snippet.replace("trailing(process, 50)", "trailing(process, 20)"), names)
    for name in ("filled", "repainted"):
        np.testing.assert_array_equal(names[name].x[:, :3], names["image"][:, :3])
    np.testing.assert_allclose(operators.averaging(2).apply(names["larger"].x), names["small"], atol=1e-6)
    assert names["canvas"].shape == (2, 8, 16, 1) and names["beside"].shape == (8, 16, 1)
    assert names["like_it"].num_evaluations == 4 and names["between"].x.shape == (8, 8, 8, 1)
