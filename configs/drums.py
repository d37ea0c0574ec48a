"""Short drums and tones by class, made by formulas: a U-Net over signals that a CPU trains.

    python main.py --config=configs/drums.py --workdir=runs/drums
    python main.py --mode=sample --workdir=runs/drums
    python main.py --mode=evaluate --workdir=runs/drums

Cost: 2,000 steps of 16 sounds; five minutes on two CPU cores.
Expected: sounds of their class with some noise; a distance of 5,332 where the set's is 136 (benchmarks/sounds.json).

The second command writes a .wav of each of the first sounds beside the picture of their spectrograms. For your own sounds,
and for longer ones, see docs/other_arrays.md.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.update(source="drums", medium="sounds", name="", held_out="test", image_size=(1024,), channels=1)
    config.data.update(sample_rate=4000, random_flip=False)
    config.process.kind = "ve"
    config.predicts = "edm"
    config.model.update(channels=32, multipliers=(0.5, 1, 1, 2, 2), num_res_blocks=1, attention_stages=(4,), num_groups=8)
    config.model.update(dropout=0.0, num_classes=4, scale_shift_norm=True)
    config.loss.update(timesteps="stratified", time_density="log_normal", time_mean=-2.0, time_std=1.6)
    config.train.update(num_steps=2000, batch_size=16, learning_rate=1e-3, decay="cosine", warmup_steps=100)
    config.train.update(ema_rates=(0.995,), log_every=100, checkpoint_every=1000, sample_every=1000)
    config.sample.update(sampler="unipc", grid="karras", num_steps=20, num_images=1000, shard_size=250, batch_per_device=250)
    config.evaluate.update(features="spectrogram", num_images=1000, num_real=1000)
    return config
