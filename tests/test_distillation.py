"""Losses of few steps: at the map that they teach, known for data whose probability flow is known, they ask for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import tiny

from diffusion_jax import denoiser, distillation, grids, process, samplers, schedules
from diffusion_jax.compose import checks, choices
from diffusion_jax.denoiser import Prediction
from diffusion_jax.errors import UserError

VE = process.ve(sigma_max=20.0)
PROCESSES = {
    "ve": VE,
    "vp": process.vp(),
    "rectified_flow": process.rectified_flow(),
    "chain": process.chain(schedules.linear(1000)),
}
EACH_PROCESS = pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
FEW_STEPS = {"loss.name": "consistency", "process.num_steps": 1000, "process.schedule": "linear", "predicts": "v"}
FLOW = process.rectified_flow(c_noise_scale=1.0)
MEAN_FLOW = {
    "loss.name": "mean_flow",
    "process.kind": "rectified_flow",
    "process.c_noise_scale": 1.0,
    "model.jumps": True,
    "predicts": "velocity",
    "sample.sampler": "mean_flow",
    "sample.clip": "none",
}
MEAN, STD = oracles.MEAN, oracles.STD
END_OF_FLOW = oracles.flow_end()


def given_x_t(of, t, num=40):
    """Returns x_0, eps [num, 1] and their weights: all that x_t = 1 may be, of the data of `oracles.gaussian`."""
    level = of.level(t)
    alpha, sigma = float(level.alpha), float(level.sigma)
    x_t, spread = 1.0, np.hypot(alpha * STD, sigma)
    nodes, weights = np.polynomial.hermite_e.hermegauss(num)
    mean = MEAN + alpha * STD**2 * (x_t - alpha * MEAN) / spread**2
    x_0 = (mean + STD * sigma / spread * nodes)[:, None]
    return jnp.asarray(x_0), jnp.asarray((x_t - alpha * x_0) / sigma), weights / np.sum(weights)


def target_of_consistency(of, t, gap):
    """Returns (mean target - x_0 at t) / (t - r) at the end of the flow, where x_t = 1: what the map is told to change."""
    x_0, eps, weights = given_x_t(of, t)
    level = jax.tree.map(lambda column: jnp.full(len(x_0), column), of.level(t))
    asked = []

    def denoise(x, level):
        asked.append((END_OF_FLOW(x, level).x_0, level.sigma / level.alpha))
        return END_OF_FLOW(x, level)

    distillation.consistency(of, gap=gap)(denoise, x_0, level, eps)
    (found, above), (target, below) = asked
    return float(np.sum(weights * (target - found)[:, 0]) / (above - below)[0])


@EACH_PROCESS
def test_the_end_of_the_flow_is_the_fixed_point_of_consistency(of):
    """Of one gap the mean target differs by O(gap^2): relative to the gap, half as much for half the gap."""
    t = of.time(np.float64(1.0))  # half signal, half noise
    with jax.enable_x64(True):
        errors = [target_of_consistency(of, t, gap) for gap in (1e-3, 5e-4, 1e-6)]
    assert errors[1] / errors[0] == pytest.approx(0.5, rel=0.02)
    assert abs(errors[2]) < 1e-5 and abs(errors[0]) > 1e-5


@EACH_PROCESS
def test_consistency_asks_nothing_of_a_network_that_knows_the_image(of):
    x_0 = jnp.full((3, 2, 2, 1), 0.5)
    level = of.level(of.time(jnp.array([5.0, 0.0, -2.0])))
    eps = jax.random.normal(jax.random.key(0), x_0.shape)
    found, terms = distillation.consistency(of, gap=0.25)(oracles.point(x_0), x_0, level, eps)
    np.testing.assert_array_equal(found, 0)
    np.testing.assert_array_equal(terms["gap"], 0.25)


@pytest.mark.parametrize("huber", [0.0, 0.3])
def test_consistency_by_hand(huber):
    """At t = 2, a gap of 1/8: r = 2 (1 - (1 + 8 sigmoid(-2)) / 8). A network that says x_0 = 3 c_noise, of four values."""
    level, x_0 = VE.level(jnp.array([2.0])), jnp.zeros((1, 4))
    r = 2 * (1 - (1 + 8 / (1 + np.exp(2))) / 8)
    denoise = denoiser.make_denoiser(lambda x, c_noise: 3 * c_noise[:, None] + 0 * x, denoiser.X_0)
    found, _ = distillation.consistency(VE, gap=1 / 8, huber=huber)(denoise, x_0, level, x_0)
    away = 3 * (np.log(2) - np.log(r)) / 4 * 2  # times the root of four
    assert float(found[0]) == pytest.approx((np.hypot(away, huber) - huber) / (2 - r), rel=1e-5)


def test_below_the_data_the_target_is_the_image():
    """A gap of 1 leads below 0 everywhere."""
    level, x_0 = VE.level(jnp.array([2.0, 0.1])), jnp.full((2, 4), 0.5)
    denoise = denoiser.make_denoiser(lambda x, c_noise: 0 * x, denoiser.X_0)
    found, _ = distillation.consistency(VE, gap=1.0)(denoise, x_0, level, x_0)
    np.testing.assert_allclose(found, [1 / 2, 1 / 0.1], rtol=1e-6)


@pytest.mark.parametrize("gap", [1.0, 0.5, 1 / 256])
def test_the_gradient_of_consistency_is_of_the_first_prediction_alone_and_finite_everywhere(gap):
    level, x_0 = VE.level(jnp.array([0.002, 0.5, 20.0])), jnp.full((3, 4), 0.5)

    def loss(scales):
        first, second = scales
        values = iter((first * jnp.ones_like(x_0), second * jnp.ones_like(x_0)))
        return jnp.sum(
            distillation.consistency(VE, gap=gap)(lambda x, level: Prediction(next(values), x), x_0, level, x_0)[0]
        )

    of_first, of_second = jax.grad(loss)((0.7, 0.6))
    assert of_second == 0 and np.isfinite(of_first) and of_first > 0
    assert jax.grad(loss)((0.5, 0.5)) == (0, 0)  # where nothing is wrong


def test_gaps_fall_in_stages():
    steps = jnp.array([0, 99, 100, 250])
    np.testing.assert_allclose(distillation.stage_gap(steps, ratio=2.0, stage_steps=100), [1 / 2, 1 / 2, 1 / 4, 1 / 8])
    np.testing.assert_allclose(distillation.stage_gap(steps, ratio=256.0, stage_steps=0), 1 / 256)


@EACH_PROCESS
def test_a_long_run_ends_at_a_gap_of_which_the_loss_is_finite(of):
    gap = distillation.stage_gap(jnp.array(10**6), ratio=2.0, stage_steps=1000)
    level = of.level(of.first + jnp.linspace(0.01, 0.99, 50, dtype=jnp.float32) * (of.last - of.first))
    x_0, eps = jnp.ones((50, 3)), jax.random.normal(jax.random.key(0), (50, 3))
    losses, _ = distillation.consistency(of, gap=gap)(lambda x, level: Prediction(0.1 * x, x), x_0, level, eps)
    assert np.all(np.isfinite(losses)) and np.all(losses > 0)


@EACH_PROCESS
def test_one_step_of_the_end_of_the_flow_draws_the_data(of):
    """From x_T itself, which no flow reaches backwards: 20,000 values, so that 4 standard errors are 0.015."""
    grid = of.level(grids.trailing(of, 2))
    keys = jax.random.split(jax.random.key(0), 20_000)
    x_T = process.prior(process.rows(grid, 0), jax.random.normal(jax.random.key(1), (20_000, 1)))
    found = samplers.sample(END_OF_FLOW, samplers.consistency(), x_T, grid, keys)
    assert int(found.num_evaluations) == 2
    assert float(jnp.mean(found.x)) == pytest.approx(MEAN, abs=0.015)
    assert float(jnp.std(found.x)) == pytest.approx(STD, abs=0.011)


def pair_of(t, r, num):
    """Returns the levels of (t, r), [num, 2], of `FLOW`."""
    return FLOW.level(jnp.broadcast_to(jnp.asarray([t, r]), (num, 2)))


@pytest.mark.parametrize(("t", "r"), [(0.9, 0.1), (1.0, 0.0), (0.5, 0.5), (0.3, 0.29)])
def test_the_mean_velocity_of_the_flow_is_the_fixed_point_of_mean_flow(t, r):
    """Two eps of one x_t give the loss's u + (t - r) du / dt. It is what the loss asks for on average, the velocity."""
    with jax.enable_x64(True):
        if t == 1:  # x_t is eps, whatever x_0 is
            x_0, eps, weights = MEAN + STD * jnp.array([[-1.0], [1.0]]), jnp.ones((2, 1)), np.array([0.5, 0.5])
        else:
            x_0, eps, weights = given_x_t(FLOW, t)
        oracle = oracles.gaussian() if t == r else oracles.mean_velocity()  # 0 / 0 there
        squares, _ = distillation.mean_flow(FLOW, power=0.0)(oracle, x_0, pair_of(t, r, len(x_0)), eps)
        asked = (eps - x_0)[:, 0]
        first, second = squares[0], squares[1]  # (V - a)^2 for two a
        found = (asked[0] + asked[1]) / 2 + (first - second) / (asked[1] - asked[0]) / 2
        assert float(found) == pytest.approx(float(jnp.sum(weights * asked)), abs=1e-6)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_steps_of_the_mean_velocity_end_where_the_flow_does(num_steps):
    with jax.enable_x64(True):
        grid = FLOW.level(grids.trailing(FLOW, num_steps))
        x_T = jax.random.normal(jax.random.key(0), (5, 1), jnp.float64)
        keys = jax.random.split(jax.random.key(0), 5)
        found = samplers.sample(oracles.mean_velocity(), samplers.mean_flow(), x_T, grid, keys)
        np.testing.assert_allclose(found.x, MEAN + STD * x_T, atol=1e-12)
        assert int(found.num_evaluations) == num_steps


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_mean_flow_by_hand(power):
    """A network that says u = w (x_t + t^2 + r), of two values: v = w (x_t + t^2 + t) and du / dt = w (v + 2 t)."""
    t, r, w, x_0, eps = 0.75, 0.5, 0.8, 0.2, -1.0

    def loss(w):
        def denoise(x, level):
            time, target = level.sigma, level.c_noise[..., 1] if level.c_noise.ndim == 2 else level.c_noise
            u = w * (x + (time**2 + target)[:, None])
            return Prediction(x - time[:, None] * u, x + (1 - time)[:, None] * u)

        of_image, terms = distillation.mean_flow(FLOW, power=power)(
            denoise, jnp.full((1, 2), x_0), pair_of(t, r, 1), jnp.full((1, 2), eps)
        )
        return of_image[0], terms["squared_error"][0]

    x_t = (1 - t) * x_0 + t * eps
    u, v = w * (x_t + t**2 + r), w * (x_t + t**2 + t)
    error = u + (t - r) * w * (v + 2 * t) - (eps - x_0)
    (found, squares), slope = jax.value_and_grad(loss, has_aux=True)(w)
    assert float(squares) == pytest.approx(2 * error**2, rel=1e-5)
    assert float(found) == pytest.approx(2 * error**2 / (2 * error**2 + 0.01) ** power, rel=1e-5)
    expected = 4 * error * u / w / (2 * error**2 + 0.01) ** power  # v and du / dt, and the weight, are held
    assert float(slope) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"predicts": "v"}, "loss.name = 'mean_flow' needs process.kind = 'rectified_flow' and predicts = 'velocity'."),
        ({"process.kind": "vp"}, "loss.name = 'mean_flow' needs process.kind = 'rectified_flow' and predicts = 'velocity'."),
        ({"process.c_noise_scale": 1000.0}, "loss.name = 'mean_flow', which differentiates the network by t; it must be at"),
        ({"model.kind": "ncsnpp"}, "is told two times: model.jumps = True, and model.kind = 'dit' or 'unet'"),
        ({"model.jumps": False}, "is told two times: model.jumps = True, and model.kind = 'dit' or 'unet'"),
        ({"sample.clip": "static"}, "sample.clip = 'static' is not for sample.sampler = 'mean_flow', which predicts no x_0"),
        ({"sample.guide": "runs/other"}, "sample.guide = 'runs/other' is not for sample.sampler = 'mean_flow', which"),
        ({"loss.name": "simple"}, "sample.sampler = 'mean_flow' needs a network of loss.name = 'mean_flow', which knows"),
    ],
)
def test_what_does_not_fit_mean_flow_is_said(changes, sentence):
    checks.check(tiny.config_of(MEAN_FLOW))
    with pytest.raises(UserError, match=sentence):
        checks.check(tiny.config_of(MEAN_FLOW | changes))


def straight(x_t, level):
    """The rectified flow of the pairs (eps, MEAN + STD eps), to which the flow of the data leads: x_t gives the pair."""
    eps = (x_t - process.expand(level.alpha, x_t) * MEAN) / process.expand(level.alpha * STD + level.sigma, x_t)
    return Prediction(MEAN + STD * eps, eps, denoiser.VELOCITY.coefficients(level))


def test_the_optimum_of_reflow_is_the_straight_flow_whose_one_step_is_the_map():
    """Heun's method with 2,000 steps is within 1e-6 of the flow, and the loss is of squares."""
    with jax.enable_x64(True):
        eps = jax.random.normal(jax.random.key(0), (6, 1), jnp.float64)
        level = FLOW.level(jnp.linspace(0.01, 1.0, 6))
        loss = distillation.reflow(oracles.gaussian(), FLOW.level(grids.trailing(FLOW, 2000)))
        assert float(jnp.max(loss(straight, 0 * eps, level, eps)[0])) < 1e-12

        def away(x, level):
            return straight(x, level)._replace(x_0=straight(x, level).x_0 + 0.1)

        np.testing.assert_allclose(loss(away, 0 * eps, level, eps)[0], 0.01, rtol=1e-4)
        one_step = FLOW.level(grids.trailing(FLOW, 1))
        found = samplers.sample(straight, samplers.ddim(), eps, one_step, jax.random.split(jax.random.key(0), 6)).x
        np.testing.assert_allclose(found, MEAN + STD * eps, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train.init_from": ""}, "loss.name = 'reflow' needs train.init_from, the workdir of the teacher."),
        ({"predicts": "v"}, "loss.name = 'reflow' needs process.kind = 'rectified_flow' and predicts = 'velocity'."),
        ({"process.kind": "vp"}, "loss.name = 'reflow' needs process.kind = 'rectified_flow' and predicts = 'velocity'."),
    ],
)
def test_what_does_not_fit_reflow_is_said(changes, sentence):
    flow = {"process.kind": "rectified_flow", "predicts": "velocity", "sample.clip": "none", "train.init_from": "runs/flow"}
    checks.check(tiny.config_of(reflow := flow | {"loss.name": "reflow"}))
    with pytest.raises(UserError, match=sentence):
        checks.check(tiny.config_of(reflow | changes))


@EACH_PROCESS
@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_target_of_progressive_distillation_is_two_steps_of_the_teachers_ddim(of, num_steps):
    """A student that says it is led by one step where two of the teacher's lead, and has no loss; another one has."""
    teacher, levels = oracles.mixture(), of.level(grids.trailing(of, 2 * num_steps)[::-1])
    x_0 = jax.random.normal(jax.random.key(0), (num_steps, 3))
    eps = jax.random.normal(jax.random.key(1), x_0.shape)
    with jax.enable_x64(True):
        levels, x_0, eps = jax.tree.map(lambda column: jnp.asarray(column, jnp.float64), (levels, x_0, eps))
        level = process.rows(levels, 2 * jnp.arange(1, num_steps + 1))
        loss = distillation.progressive(teacher, levels)
        for k in range(num_steps):
            grid = process.rows(levels, 2 * k + 2 - np.arange(3))
            one = jax.tree.map(lambda column, k=k: column[k : k + 1], (x_0, level, eps))
            x_t = process.diffuse(*one)
            x_s = samplers.sample(teacher, samplers.ddim(), x_t, grid, jax.random.split(jax.random.key(0), 1)).x
            t, s = process.rows(grid, 0), process.rows(grid, 2)
            ratio = s.sigma / t.sigma
            led = (x_s - ratio * x_t) / (s.alpha - ratio * t.alpha)
            found = [loss(lambda x, level, y=y: Prediction(y, x), *one)[0][0] for y in (led, led + 0.1)]
            assert found[0] < 1e-20
            assert float(found[1]) == pytest.approx(0.01 * max(1, float((t.alpha / t.sigma) ** 2)), rel=1e-6)
        assert loss(teacher, x_0, level, eps)[0].shape == (num_steps,)


@pytest.mark.parametrize("predicts", ["eps", "score", "scaled_score"])
def test_a_teacher_whose_errors_are_multiplied_is_refused(predicts):
    expected = f"predicts = '{predicts}': at the noisiest level an error of the network's output is 157 times as large"
    with pytest.raises(UserError, match=expected):
        checks.check(tiny.config_of(FEW_STEPS | {"predicts": predicts}))


def test_a_process_that_leaves_no_signal_is_refused():
    with pytest.raises(
        UserError, match="'consistency' is impossible with process.zero_terminal_snr = True, which leaves no"
    ):
        checks.check(tiny.config_of(FEW_STEPS | {"process.zero_terminal_snr": True}))


@pytest.mark.parametrize("predicts", sorted(choices.PARAMETERIZATIONS))
@EACH_PROCESS
def test_the_amplification_is_the_error_of_x_0_for_an_error_of_the_output(of, predicts):
    level, parameterization = of.level(of.time(np.float64(-3.0))), choices.PARAMETERIZATIONS[predicts]
    x_t = jnp.ones((1, 1))
    one, two = (
        float(denoiser.make_denoiser(lambda x, c, y=y: y + 0 * x, parameterization)(x_t, level).x_0[0, 0])
        for y in (0.0, 1.0)
    )
    assert abs(two - one) == pytest.approx(float(distillation.amplification(parameterization, level)), rel=1e-4)
