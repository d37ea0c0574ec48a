"""The sections of a config: every field in one line, with its type, its default and its meaning.

Defaults are those of configs/cifar10.py.
"""

from diffusion_jax.compose import choices, sections
from diffusion_jax.compose.sections import Flag, Section, Text, field, integer, integers, one_of


class Process(Section):
    kind: one_of(choices.PROCESSES) = field("discrete", "T levels, or real-valued time; 'learned' is for loss.name = 'vdm'")
    schedule: one_of(choices.SCHEDULES) = field("linear", "the betas of a discrete process; see schedules.py")
    num_steps: integer(1, sections.MOST_STEPS) = field(
        1000, "T of a discrete process, and of the chain that is sampled of 'learned'"
    )
    zero_terminal_snr: Flag = field(False, "rescale the schedule so that x_T is noise alone; not for eps")
    rescale_c_noise: Flag = field(False, "the network gets 1000 t / T instead of t (improved DDPM)")
    sigma_min: sections.Magnitude = field(
        0.002, "of 've' and 've_sde': the least noise that sampling visits before the data"
    )
    sigma_max: sections.Magnitude = field(80.0, "of 've' and 've_sde': the noise of x_T")
    log_snr: sections.LogSnrs = field(
        (13.3, -5.0), "of 'learned': the ends from which training begins; the weights of a run say where it led"
    )
    c_noise_scale: sections.Magnitude = field(1000.0, "of 'rectified_flow': c_noise / t; small for loss.name = 'mean_flow'")


class Model(Section):
    kind: one_of(choices.NETWORKS) = field(
        "unet",
        "'dit' is the Diffusion Transformer; 'mlp' is for points, 'egnn' for molecules; 'noisy_classifier' is the U-Net's "
        "encoder, with which to guide: log p of a label given x_t; the autoencoders are first stages of latent diffusion: "
        "docs/latents.md",
    )
    channels: integer(4) = field(128, "width of a stage whose multiplier is 1; of 'dit', 'egnn' and 'mlp': of each layer")
    multipliers: sections.Multipliers = field(
        (1, 2, 2, 2), "width of each stage, relative to channels; every stage halves the image"
    )
    depth: integer(1, sections.MOST_BLOCKS) = field(12, "of 'dit', 'egnn' and 'mlp': blocks")
    patch_size: integer(1, 1024) = field(2, "of 'dit': side of the squares that become tokens, in pixels")
    num_res_blocks: integer(1, 64) = field(2, "residual blocks of a stage, going down; one more going up")
    attention_stages: integers(0) = field((1,), "stages with attention; stage 1 of a 32-px image is 16 px")
    dropout: sections.Fraction = field(0.1, "probability, in each residual block; the published 'dit' have 0")
    num_groups: integer(1) = field(32, "groups of each group normalisation; of 'ncsnpp' each has at least 4 channels")
    norm_epsilon: sections.Positive = field(1e-6, "of each group normalisation; 1e-5 in improved DDPM")
    scale_shift_norm: Flag = field(False, "the embedding scales and shifts norms (improved DDPM) instead of being added")
    resample: one_of(("conv", "res_block")) = field("conv", "between stages; 'res_block' in ADM")
    downsample_padding: one_of(("all_sides", "bottom_right")) = field(
        "bottom_right", "of a 'conv'; improved DDPM: 'all_sides'"
    )
    embedding_spacing: one_of(("closed", "half_open")) = field(
        "closed", "of the frequencies; improved DDPM and DiT: 'half_open'"
    )
    embedding: one_of(("fourier", "positional")) = field(
        "positional", "of c_noise, of 'ncsnpp'; 'fourier' where c_noise is a logarithm: of 've' and 've_sde'"
    )
    resample_filter: integers(1) = field((1, 1), "between stages, of 'ncsnpp': (1, 1) is DDPM++, (1, 3, 3, 1) NCSN++")
    progressive_input: one_of(("input_skip", "none", "residual")) = field(
        "none", "how the smaller image goes into each stage, of 'ncsnpp': NCSN++ has 'residual', at 256 px 'input_skip'"
    )
    progressive: one_of(("none", "output_skip")) = field(
        "none", "'output_skip' sums an image of every stage, of 'ncsnpp': NCSN++ at 256 px"
    )
    fourier_exponents: integers(0, 8) = field(
        (), "of a 'unet', which also sees sin and cos of 2^n pi x_t, in units of VDM's data; VDM has (7, 8)"
    )
    num_heads: integer(1) = field(1, "heads of attention")
    num_heads_up: integer(0) = field(0, "heads of attention going up; 0 is num_heads")
    head_channels: integer(0) = field(0, "channels of each head, instead of a number of heads; 0 is off")
    num_classes: integer(-1) = field(
        0, "labels that the network knows; 0 for none, -1 for as many as the data have; of molecules most atoms + 1"
    )
    null_label: Flag = field(False, "one label more, num_classes, for 'no label'")
    text: one_of(choices.TEXTS) = field(
        "none",
        "the frozen encoder of captions and prompts: 'minilm' is in a package, others are in a folder; see docs/text.md",
    )
    text_folder: Text = field(
        "", "of text 'folder': one with config.json, model.safetensors and tokenizer.json of BERT, CLIP or T5 1.1", free=True
    )
    text_length: integer(2, 512) = field(32, "tokens of a text that the network is given; longer texts are cut")
    text_block: one_of(("attention", "transformer")) = field(
        "attention", "how pixels of a 'unet' attend to a text; 'transformer' is Stable Diffusion's way, with an MLP"
    )
    latent_channels: integer(1, 1024) = field(4, "of an autoencoder: of its latents")
    num_blocks: integers(0, 64, lengths=range(1, 10), count="1 to 9 ") = field(
        (1, 3, 3, 3), "of 'autoencoder_tiny': residual blocks of each stage; all but the last halve the image"
    )
    middle_attention: Flag = field(True, "of 'autoencoder_kl': whether the smallest stage attends")
    quant_conv: Flag = field(True, "of 'autoencoder_kl': a 1 x 1 convolution on both sides of the latents")
    pool: one_of(("adaptive", "attention")) = field("adaptive", "of 'noisy_classifier', over space: the mean, or attention")
    learned_variance: Flag = field(False, "twice the output channels; the loss 'hybrid' needs it, 'vlb' may have it")
    jumps: Flag = field(False, "the network is told two times, of 'dit', 'mlp' and 'unet': for loss.name = 'mean_flow'")
    num_remat_stages: integer(0, sections.MOST_BLOCKS) = field(
        0,
        "largest stages, of 'dit' blocks, to compute again in the backward pass: less memory, more time; not for CPUs",
        free=True,
    )
    dtype: one_of(("bfloat16", "float32")) = field("float32", "of the arithmetic; parameters are float32")
    precision: one_of(("default", "high", "highest")) = field(
        "default", "of float32 products: 'default' is TF32 on a GPU, bfloat16 on a TPU; likelihoods take 'highest'"
    )


class Loss(Section):
    name: one_of(choices.LOSSES) = field(
        "simple",
        "'simple' is L_simple; 'hybrid' trains the variance too, as 'vlb' does with model.learned_variance, without which "
        "its variance is 'large'; 'vdm' trains process.kind = 'learned' too; 'consistency', 'mean_flow', 'progressive' and "
        "'reflow' make a model that draws in few steps, see docs/few_steps.md; 'cross_entropy' is for classifiers, "
        "'reconstruction' for autoencoders",
    )
    weighting: one_of(choices.WEIGHTINGS) = field("constant", "of 'simple', over noise levels; see losses.py")
    timesteps: one_of(choices.TIMESTEPS) = field("uniform", "'stratified' has less noise; 'loss_second_moment' suits 'vlb'")
    time_density: one_of(choices.TIME_DENSITIES) = field("uniform", "of real-valued t; 'log_normal' is EDM's")
    time_mean: sections.LogTime = field(-1.2, "of ln t, for 'log_normal'; ECT: -1.1")
    time_std: sections.LogTimeWidth = field(1.2, "of ln t, for 'log_normal'; ECT: 2")
    ratio: sections.AboveOne = field(
        256.0, "of 'consistency': in stage k, from 0, its levels differ by about ratio^-(k + 1)"
    )
    stage_steps: integer(0) = field(0, "of 'consistency': steps of a stage; 0 for one stage")
    num_steps: integer(1, sections.MOST_STEPS) = field(
        1,
        "of 'progressive': steps of DDIM in which the network shall draw, half of what its teacher takes; of 'reflow': "
        "steps of Heun's method in which the teacher draws",
    )
    huber: sections.Finite = field(0.0, "of 'consistency': c of the pseudo-Huber norm; 0 is the norm")
    power: sections.Finite = field(1.0, "of 'mean_flow': p of the weight (squared error + 0.01)^-p; 0 is no weight")
    equal_share: sections.Fraction = field(0.75, "of 'mean_flow': share of images whose two times are one")
    kl_weight: sections.Finite = field(1e-6, "of 'reconstruction': of the latents' divergence from N(0, 1)")
    perceptual_weight: sections.Finite = field(
        0.0, "of 'reconstruction': of the distance in EfficientNet-lite0's features; needs its package"
    )
    equivariance_weight: sections.Finite = field(
        0.0, "of 'reconstruction': of the error where images and latents are made small and turned; EQ-VAE"
    )


class Train(Section):
    num_steps: integer(1) = field(800_000, "length of the run", free=True)
    batch_size: integer(0) = field(128, "images, over all devices; 0 takes what their memory holds, at most 128")
    num_microbatches: integer(1, 2**16) = field(
        1,
        "parts of a batch that the network takes one after the other: less memory, the same steps; not for CPUs",
        free=True,
    )
    learning_rate: sections.Positive = field(2e-4, "of Adam")
    decay: one_of(("constant", "cosine")) = field("constant", "of the learning rate: 'cosine' falls to 0 at num_steps")
    warmup_steps: integer(0) = field(
        5000, "steps in which the learning rate rises from 0, linearly; a tenth of a run that is not longer"
    )
    grad_clip: sections.Limit = field(1.0, "largest global norm of the gradient")
    weight_decay: sections.Finite = field(0.0, "of AdamW; 0 is Adam, as Ho et al. have it")
    ema_rates: sections.Rates = field((0.9999,), "one EMA of the parameters for each")
    ema_sigma_rels: sections.Widths = field(
        (), "widths of averages from which tools.ema makes others afterwards, such as (0.05, 0.1): docs/few_steps.md"
    )
    ema_warmup: one_of(("auto", "off", "on")) = field(
        "auto",
        "'on': after n steps an EMA's rate is at most (1 + n) / (10 + n); 'auto': in runs too short for the rates",
    )
    label_dropout: sections.Fraction = field(0.0, "share of images whose label and condition are replaced by nothing")
    seed: integer(0) = field(0, "of everything random in training")
    init_from: Text = field("", "a workdir to take parameters from; '' for none")
    steps_per_call: integer(0) = field(0, "steps fused into one call; 0 chooses: 1 on a CPU, else up to 10", free=True)
    max_skipped: integer(1) = field(20, "steps in a row with a non-finite loss or gradient that end the run", free=True)
    num_fsdp: integer(1) = field(1, "devices that share each parameter; the rest share the batch", free=True)
    shard_optimizer: Flag = field(
        False, "split optimizer state and EMAs over all devices: less memory, the same steps", free=True
    )
    deterministic: Flag = field(False, "on a GPU: the same bytes from every run, with slower convolutions", free=True)
    log_every: integer(1) = field(100, "steps between lines of metrics.jsonl", free=True)
    checkpoint_every: integer(1) = field(10_000, "steps between checkpoints", free=True)
    sample_every: integer(1) = field(
        10_000, "steps between previews, of 64 images or some other arrays, and the held-out loss", free=True
    )
    evaluate_every: integer(0) = field(
        0,
        "steps between kernel and sliced Wasserstein distances of 512 generated images, as `evaluate` says; 0 for none",
        free=True,
    )
    keep_checkpoints: integer(1) = field(3, "checkpoints to keep, the latest", free=True)
    tensorboard: Flag = field(True, "write for TensorBoard too", free=True)
    wandb: Text = field("", "a project of Weights & Biases to write to as well; needs its package; '' for none", free=True)


class Data(Section):
    source: one_of(choices.SOURCES) = field("tfds", "kind of the data set")
    name: Text = field("cifar10:3.0.2", "of a TFDS set")
    medium: one_of(choices.MEDIA) = field(
        "images", "what the data are: images, molecules, float32 points, int16 sounds, uint8 videos: docs/other_arrays.md"
    )
    path: Text = field("", "an .npz file, or a folder: of images, .tar, IDX files or TFDS sets; '' is TFDS's own", free=True)
    held_out: Text = field(
        "test", "split of a TFDS or IDX set, path for the others; its loss is logged; '' for none", free=True
    )
    image_size: integers(1, lengths=range(4), count="0 to 3 ") = field(
        (32, 32),
        "height, width; of videos frames, height, width; of sounds (samples,), of molecules (most atoms,); () of points",
    )
    channels: integer(1) = field(3, "1 for grey, 3 for RGB; of points: coordinates; of molecules 8")
    sample_rate: integer(1000, 192_000) = field(16_000, "of sounds, samples a second: files of other rates are resampled")
    center_crop: integer(0) = field(0, "side of the square to cut out of the middle of every image first; 0 for none")
    resize: Flag = field(
        False, "scale by area until image_size is just covered, then cut out the middle; else another size is an error"
    )
    jpeg_draft: Flag = field(
        False, "decode a JPEG at 1/2, 1/4 or 1/8 of its size where that is twice image_size or more: sooner, other pixels"
    )
    random_flip: Flag = field(True, "flip left and right, on the device")
    augment_rate: sections.Share = field(
        0.0, "probability of each move of augmentation.py, of which the network is told; 0 moves nothing; EDM has 0.12"
    )
    codec: Text = field("", "an autoencoder's workdir: the network draws its latents; see docs/latents.md", free=True)
    latents: Text = field("", "a folder for a codec's latents, which runs may share; '' is in the workdir", free=True)
    latent_shape: integers(1, lengths=range(4), count="0 or 3 ") = field(
        (), "of a codec's latents: height, width, channels; () asks the codec"
    )
    latent_scale: sections.Finite = field(
        0.0, "factor on a codec's latents; 0 measures what gives the training set's a standard deviation of 1"
    )
    latent_shift: sections.Real = field(
        0.0, "is taken from a codec's latents before the factor; published autoencoders say it"
    )
    condition: one_of(("none", *choices.CONDITIONS)) = field(
        "none", "what the network is shown of each image: made from it, see data/conditions.py, or 'paired': another file"
    )
    condition_factor: integer(2) = field(4, "of low_resolution: side of the squares that are averaged, in pixels")
    condition_path: Text = field(
        "", "of paired: a folder with an image of the same size for each of data.path, by name, in any format", free=True
    )
    condition_held_out: Text = field("", "of paired: the same for the images of data.held_out", free=True)
    skip_broken: Flag = field(
        False, "read every file of a folder once at the start, and leave out those that cannot be read", free=True
    )
    device_cache_gib: sections.Finite = field(
        2.0, "data sets up to this size stay on the devices; grain reads larger ones as needed", free=True
    )


class Sample(Section):
    sampler: one_of(choices.SAMPLERS) = field("ancestral", "docs/samplers.md says which for how many steps")
    grid: one_of(choices.GRIDS) = field("trailing", "levels to visit; see grids.py")
    num_steps: integer(0, sections.MOST_STEPS) = field(
        0, "at most process.num_steps, but for grids of real-valued times; 0 is process.num_steps"
    )
    rho: sections.Rho = field(
        7.0,
        "of the grids karras (7 is usual) and polyexponential (1 is): larger for more steps at little noise",
    )
    times: sections.Times = field((), "of the grid 'explicit', falling; 0, the data, may be the last")
    last_level: one_of(("data", "min_noise")) = field(
        "data", "where grids lead: 'min_noise' stops at the least noisy level that the network is asked about"
    )
    interpolation: one_of(("log_alpha", "log_snr")) = field(
        "log_alpha", "what is linear between whole t of a discrete process"
    )
    eta: sections.Share = field(0.0, "of ddim: 0 is deterministic, 1 as noisy as ancestral")
    order: integer(1, 3) = field(2, "of dpm_solver, its variants, lms and unipc")
    stage: sections.Stage = field(
        1.0,
        "of runge_kutta_2: where in a step the slope is taken again, EDM's alpha; 1 is Heun's method, 0.5 the midpoint's",
    )
    solves_for: one_of(("eps", "x_0")) = field(
        "x_0", "of dpm_solver, dpm_solver_singlestep, unipc and unipc_bh1: 'x_0' is DPM-Solver++, 'eps' DPM-Solver"
    )
    lower_order_final: Flag = field(
        True,
        "of dpm_solver, both singlesteps, unipc and unipc_bh1: the last steps have lower orders, steadier below 15 steps",
    )
    churn: sections.Churn = field((0.0, 0.0, 1e9, 1.0), "of euler and heun: S_churn, S_min, S_max, S_noise of EDM")
    corrector: one_of(("none", *choices.CORRECTORS)) = field(
        "none", "what moves x at each level before a step, see sde.py; 'langevin_batch' takes norms over the batch"
    )
    correction_snr: sections.Snr = field(0.16, "of a corrector: how much of the score to the noise it adds")
    num_corrections: integer(1, sections.MOST_STEPS) = field(1, "of a corrector: at each level")
    tolerance: sections.Tolerance = field(1e-5, "of ode, relative and absolute")
    variance: one_of(("large", "learned_range", "small")) = field("large", "of ancestral: 'small' suits fewer steps")
    clip: one_of(choices.CLIPS) = field("static", "limits x_0 at every step; 'static' is [-1, 1]; see denoiser.py")
    num_images: integer(1, sections.MOST_IMAGES) = field(50_000, "images to generate")
    batch_per_device: integer(1, sections.MOST_AT_ONCE) = field(256, "images that the network takes at once")
    shard_size: integer(1) = field(1000, "images in a file while a dump is made: what a kill costs at most")
    strip: integer(0) = field(0, "times at which strip.png shows the predicted x_0; 0 for no such picture")
    seed: integer(0) = field(0, "of the images and of likelihoods")
    ema_rate: sections.Chosen = field(-1.0, "one of train.ema_rates, or 0 for the parameters themselves; -1 is the last")
    label: integer(-1) = field(
        -1,
        "of every image, where there are classes; -1: i % num_classes for image i, or that of what it is shown; of a "
        "molecule the number of its atoms, with -1 that of molecule i of the held-out set",
    )
    step: integer(-1) = field(-1, "of the checkpoint; -1 is the latest")
    guidance: sections.Finite = field(1.0, "scale of guidance: images of their label, and less of any; 1 is off")
    guidance_interval: sections.Interval = field(
        (0.0, 1e9), "of sigma / alpha, where images are guided, 1e9 for no end; elsewhere one evaluation is enough"
    )
    negative_label: integer(-1) = field(-1, "that images are led away from, instead of no label; -1 for none")
    prompt: Text = field(
        "",
        "what images shall show, where the network is given texts: a prompt a line, the first for image 0; @FILE for those "
        "of a file; an empty one is no text",
    )
    negative_prompt: Text = field("", "that guidance leads away from, instead of no text")
    guide: Text = field(
        "",
        "a worse network that images are led away from, instead of this one without a label: a workdir, or a step of this "
        "run's checkpoints; or a noisy classifier's workdir; previews of training do without",
    )


class Likelihood(Section):
    kind: one_of(("bound", "continuous", "pf_ode")) = field(
        "bound",
        "the variational bound; 'continuous': its limit of infinitely many steps; 'pf_ode': the density of the flow",
    )
    held_out: Flag = field(True, "of the images of data.held_out; False for the training set")
    num_images: integer(0) = field(0, "evenly spaced over the set; 0 for all")
    batch_per_device: integer(1, sections.MOST_AT_ONCE) = field(64, "images that the network takes at once")
    shard_size: integer(1) = field(500, "images in a file while a run goes on: what a kill costs at most")
    probes: one_of(choices.PROBES) = field(
        "rademacher", "of pf_ode's trace, at random; 'basis' is exact, and takes as many as there are values: for points"
    )
    num_probes: integer(1) = field(1, "random probes of pf_ode's trace")
    tolerance: sections.Positive = field(1e-5, "of pf_ode, relative and absolute")


class Evaluate(Section):
    features: one_of(choices.FEATURES) = field(
        "efficientnet_lite0",
        "what images are compared in; 'inception' gives FID; 'pixels' are values, 'given' of files, 'spectrogram' of sounds",
    )
    weights: Text = field("", "file of the weights of 'classifier', and the first time of 'inception'")
    size: integer(0, 2048) = field(0, "height and width, in pixels, to which the network's input is scaled; 0 is its own")
    num_images: integer(20, sections.MOST_IMAGES) = field(50_000, "images to generate")
    num_real: integer(0) = field(50_000, "most images of the training set and of the held-out set; 0 for all")
    dump: Text = field("", "images to judge instead of generated ones: a dump, an .npz file or a folder")
    reference: Text = field("", "images to compare with instead of the data set, or an .npz file of their statistics")
    checkpoints: one_of(("all", "one")) = field("one", "'one' is sample.step; 'all' draws each figure against the step")
    keep_images: Flag = field(False, "write the generated images as a dump too")
    batch_per_device: integer(1, sections.MOST_AT_ONCE) = field(64, "images whose features are found at once")
    shard_size: integer(1) = field(1000, "images in a file while features are found: what a kill costs at most")


class Edit(Section):
    task: one_of(choices.EDITS) = field("inpaint", "what becomes of the images; see docs/editing.md")
    images: Text = field("", "the images to edit: a file, a folder or an .npz file")
    mask: Text = field(
        "", "of inpaint and repaint: what is white is generated; a file for all images, or a folder with one of each name"
    )
    box: integers(0, lengths=range(0, 5, 4), count="0 or 4 ") = field(
        (), "instead of a mask: the top, left, height and width of what is generated"
    )
    sides: integers(0, sections.MOST_PIXELS, lengths=range(4, 5), count="4 ") = field(
        (0, 0, 0, 0), "of outpaint: pixels to generate at the top, bottom, left and right"
    )
    jump_length: integer(1) = field(10, "of repaint: steps up in noise at once")
    num_resamples: integer(1) = field(10, "of repaint: how often each part of the grid is walked")
    strength: sections.Share = field(0.5, "of vary: the share of the steps that is taken; 0 is the image itself")
    num_between: integer(2, 1000) = field(8, "of interpolate: images of each row, the two ends among them")
    factor: integer(1, 1024) = field(2, "of super_resolve: pixels of the result for one, on each side")
    blur_std: sections.Pixels = field(1.0, "of deblur: standard deviation of the Gaussian that blurred, in pixels")
    noise_std: sections.Finite = field(0.05, "of deblur: standard deviation of the noise, of pixels in [-1, 1]")
