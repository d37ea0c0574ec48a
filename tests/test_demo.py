"""The page of docs/demo draws what Python draws, for any network; benchmarks/demo.py does it with those of the examples."""

import json
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax import grids, guidance
from diffusion_jax.compose import portable

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed, which runs sampler.mjs")
PROGRAM = """import { imageKey, normal, sample, toUint8, trailing } from '%s/docs/demo/sampler.mjs'
const given = JSON.parse(process.argv[1])
const network = (x, c_noise, labels) => x.map((value, i) => {
  const image = Math.floor(i / 4)
  return 0.9 * Math.sin(3 * value) + c_noise[image] / 2000 + (labels ? labels[image] / 10 : 0)
})
const images = given.asked && toUint8(await sample(network, given.manifest, given.asked))
console.log(JSON.stringify({
  images: Array.from(images ?? []),
  noise: Array.from(normal(imageKey(7, 'x_T', 3), 5000)),
  grids: [1, 3, 7, 16, 48, 50, 1000].map((steps) => trailing(1000, steps)),
}))"""


def run(**given):
    program = ["node", "--input-type=module", "-e", PROGRAM % tiny.ROOT, json.dumps(given)]
    return json.loads(subprocess.run(program, capture_output=True, check=True, timeout=60, text=True).stdout)


def network(x_t, c_noise, label):
    told = 0 if label is None else jnp.asarray(label)[:, None, None, None] / 10
    return 0.9 * jnp.sin(3 * x_t) + c_noise[:, None, None, None] / 2000 + told


def test_noise_and_grids_are_those_of_python():
    found, process = run(), dj.chain(dj.linear(1000))
    noise = jax.random.normal(dj.streams.key(7, "x_T", 3), (5000,))
    np.testing.assert_allclose(found["noise"], noise, rtol=0, atol=1e-6)  # two roundings at 4
    for rows in found["grids"]:
        np.testing.assert_array_equal(1000 - np.array(rows), grids.trailing(process, len(rows) - 1))


@pytest.mark.parametrize(
    ("sampler", "labels", "scale"),
    [("ddim", None, 1), ("ancestral", None, 1), ("ddim", [3, 1], 2.5), ("ancestral", [0, 9], 1)],
)
def test_a_sampler_draws_the_images_of_python(sampler, labels, scale):
    config = tiny.config_of({"process.num_steps": 100, "sample.num_steps": 100, "model.num_classes": 10})
    asked = {"sampler": sampler, "steps": 12, "seed": 5, "count": 2, "labels": labels, "guidance": scale}
    manifest = {"levels": portable.levels(config), "image_shape": [2, 2, 1], "model": {"num_classes": 10}}
    found = np.reshape(run(manifest=manifest, asked=asked)["images"], (2, 2, 2, 1))
    denoise, other = (
        dj.make_denoiser(lambda x_t, c_noise, label=label: network(x_t, c_noise, label), dj.V)
        for label in (labels, [10, 10])
    )
    guided = dj.clip_x_0(denoise if scale == 1 else guidance.autoguidance(denoise, other, scale=scale))
    process, numbers = dj.chain(dj.cosine(100)), jnp.arange(2)
    level, keys = process.level(dj.trailing(process, 12)), dj.streams.keys(5, "sampler", numbers)
    noise = jnp.stack([jax.random.normal(key, (2, 2, 1)) for key in dj.streams.keys(5, "x_T", numbers)])
    of = dj.ddim() if sampler == "ddim" else dj.ancestral(variance="small")
    wanted = dj.to_uint8(dj.sample(guided, of, dj.prior(process.level(process.last), noise), level, keys).x)
    assert np.max(np.abs(found - np.asarray(wanted, int))) <= 1 and np.std(wanted) > 5
