"""What the scheduler of a diffusers pipeline says of the process and of sampling."""

from collections.abc import Iterator, Mapping
from typing import Any

from diffusion_jax.errors import UserError

DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": True,
}
OF_MULTISTEP = {"clip_sample": False, "timestep_spacing": "linspace", "solver_order": 2}
OF_MULTISTEP |= {"algorithm_type": "dpmsolver++", "predict_x0": True}  # of DPM-Solver, of UniPC
OF_PNDM = {"clip_sample": False, "set_alpha_to_one": False}
SCHEDULES = {  # (beta_schedule, beta_start, beta_end) -> ours; the cosine has no ends
    ("linear", 1e-4, 0.02): "linear_raw",
    ("scaled_linear", 1e-4, 0.02): "scaled_linear",
    ("scaled_linear", 0.00085, 0.012): "latent_diffusion",
    ("sigmoid", 1e-4, 0.02): "sigmoid_beta",
}
PREDICTS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "fixed_large_log": "large"}
VARIANCES |= {"learned_range": "learned_range"}
SAMPLERS = {"DDPMScheduler": "ancestral", "DDIMScheduler": "ddim"}
MULTISTEP = {"UniPCMultistepScheduler": "unipc", "DPMSolverMultistepScheduler": "dpm_solver"}
FEW_STEPS = 50  # of samplers that need not take all
UNHEEDED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def fields(settings: Mapping[str, Any] | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the fields of our config that a scheduler_config.json means, and sentences on what was assumed.

    Raises UserError for a process that the library does not have. Without a scheduler the process is DDPM's.
    """
    if settings is None:
        return {}, ("there is no scheduler_config.json: the process is taken to be DDPM's.",)
    kind = settings.get("_class_name", "DDPMScheduler")
    unsaid = OF_MULTISTEP if kind in MULTISTEP else OF_PNDM if kind == "PNDMScheduler" else {}
    options = DEFAULTS | unsaid | {name: value for name, value in settings.items() if value is not None}
    if options.get("use_flow_sigmas"):
        raise UserError(
            "scheduler_config.json has use_flow_sigmas = True: a rectified flow, which this import does not know."
        )
    sampler = _sampler(kind, options)
    return {
        "process.num_steps": options["num_train_timesteps"],
        "process.schedule": _schedule(options),
        "process.zero_terminal_snr": bool(options["rescale_betas_zero_snr"]),
        "predicts": _one_of(options, "prediction_type", PREDICTS),
        "sample.sampler": sampler,
        "sample.num_steps": 0 if sampler == "ancestral" else FEW_STEPS,
        **(_order(options) if kind in MULTISTEP else {}),
        **_grid(kind, options),
        "sample.variance": _one_of(options, "variance_type", VARIANCES),
        "sample.clip": _clip(options, sampler),
    }, tuple(_notes(kind, options))


def _sampler(kind: str, options: Mapping[str, Any]) -> str:
    if kind == "UniPCMultistepScheduler" and options.get("solver_type") == "bh1":
        return "unipc_bh1"
    if kind == "DPMSolverMultistepScheduler" and options["algorithm_type"] in ("sde-dpmsolver", "sde-dpmsolver++"):
        return "dpm_solver_sde"
    return (SAMPLERS | MULTISTEP).get(kind, "ddim")


def _order(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how a multistep scheduler solves: for eps where it is DPM-Solver and not DPM-Solver++."""
    solves_for = "eps" if options["algorithm_type"] == "dpmsolver" or not options["predict_x0"] else "x_0"
    return {"sample.order": options["solver_order"], "sample.solves_for": solves_for}


def _notes(kind: str, options: Mapping[str, Any]) -> Iterator[str]:
    if kind not in SAMPLERS | MULTISTEP:
        yield f"the scheduler {kind} is replaced by DDIM with {FEW_STEPS} steps, of the same process."
    if options["steps_offset"] and options["timestep_spacing"] == "leading" and not _ends_at_row_1(kind, options):
        yield f"the scheduler adds {options['steps_offset']} to each t; the grid 'leading' does not."
    if kind in MULTISTEP and options["timestep_spacing"] == "leading":
        yield "of S steps the scheduler's rows are T // (S + 1) apart, without row 0; in the grid 'leading' T // S, with it."
    if kind in MULTISTEP and options.get("final_sigmas_type") == "sigma_min":
        yield "the scheduler stops at the least noise; the sampler goes to the data."
    if options.get("algorithm_type") == "sde-dpmsolver":
        yield "the scheduler's algorithm_type = 'sde-dpmsolver' is replaced by 'sde-dpmsolver++'."
    for name in UNHEEDED:
        if options.get(name):
            yield f"the scheduler has {name}, which is left out; sample.grid says which levels are visited."


def _grid(kind: str, options: Mapping[str, Any]) -> dict[str, str]:
    if _ends_at_row_1(kind, options):
        return {"sample.grid": "leading_offset", "sample.last_level": "min_noise"}
    if kind in MULTISTEP and options["timestep_spacing"] == "linspace":
        return {"sample.grid": "trailing"}  # their rows are S of S + 1 evenly spaced ones, without the first
    return {"sample.grid": options["timestep_spacing"]}


def _ends_at_row_1(kind: str, options: Mapping[str, Any]) -> bool:
    """Returns whether steps are those of Stable Diffusion's schedulers, of which DDIM's and PNDM's heed both settings."""
    heeds = kind in ("DDIMScheduler", "PNDMScheduler") and not options["set_alpha_to_one"]
    return heeds and options["steps_offset"] == 1 and options["timestep_spacing"] == "leading"


def _schedule(options: Mapping[str, Any]) -> str:
    if options["trained_betas"] is not None:
        raise UserError("scheduler_config.json has trained_betas; a process of the library has a named schedule.")
    if options["beta_schedule"] == "squaredcos_cap_v2":
        return "cosine"
    given = tuple(options[name] for name in ("beta_schedule", "beta_start", "beta_end"))
    if given not in SCHEDULES:
        known = "; ".join(f"{name} from {first:g} to {last:g}" for name, first, last in SCHEDULES)
        raise UserError(
            f"scheduler_config.json has beta_schedule = {given[0]!r} from {given[1]} to {given[2]}; known: {known}; "
            "squaredcos_cap_v2."
        )
    return SCHEDULES[given]


def _one_of(options: Mapping[str, Any], name: str, known: Mapping[str, str]) -> str:
    if options[name] not in known:
        raise UserError(f"scheduler_config.json has {name} = {options[name]!r}; known: {', '.join(known)}.")
    return known[options[name]]


def _clip(options: Mapping[str, Any], sampler: str) -> str:
    """Returns the limit of x_0; diffusers' DDIM does not find eps again from what was clipped."""
    if options["thresholding"]:
        return "dynamic"
    if options["clip_sample"] and options["clip_sample_range"] != 1:
        raise UserError(f"scheduler_config.json has clip_sample_range = {options['clip_sample_range']}; it must be 1.")
    return ("static_keep_eps" if sampler == "ddim" else "static") if options["clip_sample"] else "none"


def settings_of(betas: list[float], schedule: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scheduler_config.json of a discrete process; UserError where diffusers has none such.

    Args:
        betas: of the schedule, before a rescaling to zero SNR, [T].
        schedule: our name of it.
        fields: of our config, flat.
    """
    if fields["process.kind"] != "discrete" or fields["predicts"] not in PREDICTS.values():
        raise UserError(
            f"config fields process.kind = {fields['process.kind']!r} and predicts = {fields['predicts']!r} have no "
            "counterpart in diffusers' DDPMScheduler: it has discrete processes, and eps, v or x_0."
        )
    if fields["process.rescale_c_noise"] and len(betas) != 1000:
        raise UserError("config field process.rescale_c_noise = True has no counterpart in diffusers, but for 1000 steps.")
    is_ddim, clip = fields["sample.sampler"] == "ddim", fields["sample.clip"]
    names = {ours: theirs for theirs, ours in reversed(VARIANCES.items())}
    return {
        "_class_name": "DDIMScheduler" if is_ddim else "DDPMScheduler",
        "num_train_timesteps": len(betas),
        **_schedule_settings(betas, schedule),
        "prediction_type": {ours: theirs for theirs, ours in PREDICTS.items()}[fields["predicts"]],
        **({} if is_ddim else {"variance_type": names[fields["sample.variance"]]}),
        "clip_sample": clip.startswith("static"),
        "thresholding": clip == "dynamic",
        "rescale_betas_zero_snr": fields["process.zero_terminal_snr"],
        "timestep_spacing": _spacing(fields["sample.grid"], has_noise=not is_ddim and fields["sample.variance"] != "small"),
    }


def _spacing(grid: str, *, has_noise: bool) -> str:
    """Returns diffusers' name of a grid, or of one that is near it.

    Its DDPMScheduler adds noise in the last step too, where the variance has some (`has_noise`), unless that step is at its
    t = 0. Of fewer steps than T, 'trailing' has none there.
    """
    if grid in ("leading", "linspace"):
        return grid
    return "leading" if has_noise else "trailing"


def _schedule_settings(betas: list[float], schedule: str) -> dict[str, Any]:
    """Returns how diffusers names a schedule, or the betas themselves where it has no name."""
    if schedule == "cosine":
        return {"beta_schedule": "squaredcos_cap_v2"}
    named = {ours: kind for (kind, _, _), ours in SCHEDULES.items()} | {"linear": "linear"}
    if schedule in named:
        return {"beta_schedule": named[schedule], "beta_start": float(betas[0]), "beta_end": float(betas[-1])}
    return {"trained_betas": [float(beta) for beta in betas]}
