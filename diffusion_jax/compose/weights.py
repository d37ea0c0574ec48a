"""The weights in a run's checkpoints that a config chooses."""

from typing import Any

import jax

from diffusion_jax.compose import processes
from diffusion_jax.compose.config import Config
from diffusion_jax.runs import checkpoint, sharding, storage
from diffusion_jax.training import averages


def averages_of(config: Config) -> dict[str, Any]:
    """Returns the names of the average that `sample.ema_rate` chooses, 'ema', and of all in a checkpoint, 'all_ema'."""
    train, rate = config.train, config.sample.ema_rate
    names = [*map(averages.ema_name, train.ema_rates), *map(averages.power_name, train.ema_sigma_rels)]
    return {"ema": averages.ema_name(rate) if rate else "", "all_ema": names}


def alone(config: Config) -> Config:
    """Returns the config of a run as that of one set of its weights, without averages and without another guide."""
    without = config.with_values("train", ema_rates=(), ema_sigma_rels=())
    unguided = {"guide": "", "guidance": 1.0} if config.sample.guide else {}
    return without.with_values("sample", ema_rate=0.0, step=-1, **unguided)


def restored(workdir: storage.Path, config: Config) -> tuple[int, Any]:
    """Returns (the step of a checkpoint, its weights on every device), as the config's section `sample` names them.

    Raises UserError where they do not exist, or are of another network.
    """
    abstract = jax.eval_shape(processes.network(config).init, jax.random.key(0))
    like = sharding.with_shardings(abstract, sharding.replicated(sharding.local_mesh()))
    return checkpoint.restore_weights(workdir, step=config.sample.step, like=like, **averages_of(config))
