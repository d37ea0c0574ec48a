"""Denoising Diffusion Probabilistic Models on CIFAR-10, exactly. [Ho et al. 2020, section 4 and appendix B]

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10

Cost: 800,000 steps of 128 images; published, not measured: 10.6 hours on a TPU v3-8.
Expected: FID 3.17 and Inception score 9.46 from 50,000 images; published, not measured.

This is the file that explains every field. The other configs say only where they differ from it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.compilation_cache = True  # keep compiled programs in ~/.cache/diffusion_jax, or in $JAX_COMPILATION_CACHE_DIR

    config.process = ConfigDict()
    config.process.kind = "chain"  # T levels; in real-valued time 'vp', 've' and 'rectified_flow': see continuous.py
    config.process.schedule = "linear"  # of a chain: beta from 1e-4 to 0.02, times 1000 / num_steps; others: schedules.py
    config.process.num_steps = 1000  # T of a chain
    config.process.zero_terminal_snr = False  # rescale, so that nothing of the image is left at T; not with eps
    config.process.rescale_condition = False  # tell the network 1000 t / T and not t (improved DDPM)

    config.predicts = "eps"  # what the network's output is: 'eps', 'x_0', 'v', 'velocity', 'score' or 'edm'

    config.model = ConfigDict()
    config.model.channels = 128  # width of the first level
    config.model.multipliers = (1, 2, 2, 2)  # width of each level; every level halves the image
    config.model.num_res_blocks = 2  # a level, going down; one more going up
    config.model.attention_levels = (1,)  # levels with attention; level 1 of a 32-px image is 16 px
    config.model.dropout = 0.1
    config.model.num_groups = 32  # of each group normalisation
    config.model.norm_epsilon = 1e-6  # of each group normalisation; 1e-5 in improved DDPM
    config.model.scale_shift_norm = False  # whether the level scales and shifts norms (improved DDPM) or is added
    config.model.resample = "conv"  # between levels; 'res_block' in ADM
    config.model.downsample_padding = "bottom_right"  # of a 'conv'; 'all_sides' in improved DDPM
    config.model.embedding_spacing = "closed"  # of the level's frequencies; 'half_open' in improved DDPM
    config.model.num_heads = 1  # of attention
    config.model.num_heads_up = 0  # of attention going up; 0 is num_heads
    config.model.head_channels = 0  # of each head, instead of a number of heads; 0 is off
    config.model.num_classes = 0  # labels that the network is told; 0 for none
    config.model.null_label = False  # one label more, num_classes, for "not told"
    config.model.learned_variance = False  # twice the output channels, for 'hybrid' and 'vlb'
    config.model.num_remat_levels = 0  # largest levels to compute again going back: less memory, more time; not for CPUs
    config.model.dtype = "float32"  # of the arithmetic: 'float32' or 'bfloat16'; parameters are float32

    config.loss = ConfigDict()
    config.loss.name = "simple"  # mean squared error of the network's output; 'hybrid' and 'vlb' train the variance too
    config.loss.weighting = "constant"  # over noise levels; others: see losses.py
    config.loss.timesteps = "uniform"  # 'stratified' spreads t over the batch: less noise; 'loss_second_moment' suits 'vlb'
    config.loss.density = "uniform"  # of real-valued t: 'uniform', 'log_uniform', 'log_normal' (EDM), 'logit_normal'

    config.train = ConfigDict()
    config.train.num_steps = 800_000
    config.train.batch_size = 128  # over all devices; 0 takes what their memory holds, at most 128
    config.train.learning_rate = 2e-4  # of Adam
    config.train.decay = "constant"  # 'cosine' falls to 0 at num_steps
    config.train.warmup_steps = 5000  # linear, from 0
    config.train.grad_clip = 1.0  # largest global norm
    config.train.ema_rates = (0.9999,)  # one average of the parameters for each
    config.train.ema_warmup = False  # after n steps an average moves at most at rate (1 + n) / (10 + n): for short runs
    config.train.label_dropout = 0.0  # share of labels replaced by the null label
    config.train.seed = 0
    config.train.init_from = ""  # a workdir to take parameters from
    config.train.steps_per_call = 0  # steps fused into one call; 0 chooses: 1 on a CPU, else up to 10
    config.train.max_skipped = 20  # steps in a row with a non-finite loss or gradient before the run stops
    config.train.num_fsdp = 1  # devices that share each parameter; the rest share the batch
    config.train.split_update = False  # optimizer state and averages split over all devices: less memory, the same steps
    config.train.deterministic = False  # on a GPU: the same bytes from every run, with slower convolutions
    config.train.log_every = 100
    config.train.checkpoint_every = 10_000
    config.train.sample_every = 10_000  # grids of 64 images with the settings of `sample`, and the held-out loss
    config.train.keep_checkpoints = 3  # the latest
    config.train.tensorboard = True

    config.data = ConfigDict()
    config.data.source = "tfds"  # 'digits', 'folder', 'idx', 'npz' or 'tfds'
    config.data.name = "cifar10:3.0.2"  # of a TFDS set
    config.data.path = ""  # an .npz file, or a folder: of images, IDX files or TFDS sets ("" is TFDS's own)
    config.data.held_out = "test"  # split of a TFDS or IDX set, path for the others; its loss is logged; "" for none
    config.data.image_size = (32, 32)  # height, width
    config.data.channels = 3
    config.data.center_crop = 0  # side of the square that is cut out of the middle of every image first; 0 for none
    config.data.resize = False  # scale by area until image_size is just covered, then cut out the middle; else an error
    config.data.random_flip = True  # left-right, on the device
    config.data.resident_gib = 2.0  # sets up to this size stay on the device; larger ones are read as needed, by grain

    config.sample = ConfigDict()
    config.sample.sampler = "ancestral"  # 'ddim', 'dpm_solver', 'heun', ...: docs/samplers.md says which for how many steps
    config.sample.grid = "trailing"  # evenly spaced from T; others: see timesteps.py
    config.sample.num_steps = 1000  # at most process.num_steps, but for grids of real-valued times
    config.sample.times = ()  # of the grid 'explicit', from the noisiest on; 0, the data, may be the last
    config.sample.end = "data"  # where grids lead; 'lowest' stops at the least noisy level asked about (not 'trailing')
    config.sample.interpolation = "log_alpha"  # what is linear between levels of a chain, for real times; or 'log_snr'
    config.sample.eta = 0.0  # of ddim: 0 is deterministic, 1 as noisy as ancestral
    config.sample.order = 2  # of dpm_solver, dpm_solver_singlestep and unipc: 1 to 3
    config.sample.solves_for = "x_0"  # of the same: 'x_0' is DPM-Solver++, 'eps' DPM-Solver
    config.sample.lower_order_final = True  # of the same: end with lower orders, steadier below 15 steps
    config.sample.churn = (0.0, 0.0, 1e9, 1.0)  # of euler and heun: S_churn, S_min, S_max, S_noise of EDM
    config.sample.tolerance = 1e-5  # of ode, relative and absolute
    config.sample.variance = "large"  # of ancestral: 'large' is beta_t; 'small' suits fewer steps; or 'learned_range'
    config.sample.clip = "static"  # x_0 to [-1, 1] at every step, eps following; others: see denoiser.py
    config.sample.num_images = 50_000
    config.sample.batch_per_device = 256  # images that the network draws at once
    config.sample.shard_size = 1000  # images in a file while a dump is made: what a kill costs at most
    config.sample.strip = 0  # times at which predictions of x_0 are pictured in strip.png; 0 for no such picture
    config.sample.seed = 0
    config.sample.ema_rate = 0.9999  # one of train.ema_rates, or 0 for the parameters themselves
    config.sample.label = -1  # of every image, where there are classes; -1: image i has label i % num_classes
    config.sample.step = -1  # of the checkpoint; -1 is the latest

    config.likelihood = ConfigDict()  # of the weights that `sample` names
    config.likelihood.kind = "bound"  # the variational bound of the chain that `sample` describes; 'flow': the ODE's density
    config.likelihood.held_out = True  # of the images of data.held_out; False for the training set
    config.likelihood.num_images = 0  # evenly spaced over the set; 0 for all
    config.likelihood.batch_per_device = 64  # images that the network sees at once
    config.likelihood.shard_size = 500  # images in a file while a run goes on: what a kill costs at most
    config.likelihood.probes = "rademacher"  # of the flow's trace: 'rademacher' or 'normal'
    config.likelihood.num_probes = 1
    config.likelihood.tolerance = 1e-5  # of the flow's integration, relative and absolute
    return config
