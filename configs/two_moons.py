"""Points in the plane, on two half circles: an MLP that trains in seconds on any CPU.

    python main.py --config=configs/two_moons.py --workdir=runs/two_moons

Cost: 3,000 steps of 512 points; half a minute on two CPU cores with other work.
Expected: 0.0098 nats from the truth (benchmarks/two_moons.json).

The density of the points is known, so that what was learned can be compared with the truth: docs/other_arrays.md.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.update(source="two_moons", medium="points", name="", held_out="test", image_size=(), channels=2)
    config.data.random_flip = False
    config.process.kind = "ve"
    config.predicts = "edm"
    config.model.update(kind="mlp", channels=64, depth=4)
    config.loss.update(timesteps="stratified", time_density="log_normal")
    config.train.update(num_steps=3000, batch_size=512, learning_rate=2e-3, decay="cosine", warmup_steps=100)
    config.train.update(ema_rates=(0.99,), log_every=500, checkpoint_every=3000, sample_every=1500)
    config.sample.update(sampler="unipc", grid="karras", num_steps=20, clip="none")
    config.sample.update(num_images=16_384, batch_per_device=16_384, shard_size=16_384)
    config.likelihood.update(kind="pf_ode", probes="basis", num_images=2000, batch_per_device=2000, shard_size=2000)
    config.evaluate.update(features="pixels", num_images=16_384)
    return config
