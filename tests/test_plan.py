"""The plan of a run: what a compiled program's text says, and a slice that this machine need not have."""

import importlib.util
import json

import pytest
import tiny

from diffusion_jax.compose import command
from diffusion_jax.compose.config import Config
from diffusion_jax.runs import hardware, sharding
from diffusion_jax.tools import plan
from diffusion_jax.tools.plan import collectives, traffic

TEXT = """
  %all-reduce.1 = (f32[24]{0:T(128)S(1)}, /*index=1*/bf16[8,3]{1,0:T(8,128)}) all-reduce(%a, %b), replica_groups={{0,1}}
  %get-tuple-element.8 = f32[24]{0} get-tuple-element(%all-reduce.1), index=0
  %ag = f32[8,4]{1,0} all-gather(f32[2,4]{1,0} %p), replica_groups=[1,4]<=[4], dimensions={0}
  %ags = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%p), replica_groups=[1,4]<=[4], dimensions={0}
  %agd = f32[8,4]{1,0} all-gather-done(%ags)
  %rs = f32[2,4]{1,0} reduce-scatter(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %cp = (f32[10]{0}, f32[10]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1}}
  ROOT %ars = f32[] all-reduce-start(%loss), replica_groups=[1,4]<=[4]
"""


def test_the_bytes_of_every_collective_are_read_from_the_text():
    assert collectives.moved(TEXT) == {
        "all-reduce": 4 * 24 + 2 * 24 + 4,
        "all-gather": 2 * 4 * 32,
        "reduce-scatter": 4 * 8 * 4,
        "collective-permute": 40,
    }


OF_A_LOOP = """
%fused (p: bf16[8]) -> bf16[8] {
  %inner = bf16[1000]{0:T(128)} add(%p, %p)
}

%body.1 (arg.1: (bf16[8])) -> (bf16[8]) {
  %arg.1 = (bf16[8]{0:T(128)}) parameter(0)
  %x.1 = bf16[8]{0:T(128)} get-tuple-element(%arg.1), index=0
  %fast.1 = bf16[8]{0:T(128)S(1)} fusion(%x.1), kind=kLoop, calls=%fused
  ROOT %tuple.1 = (bf16[8]{0:T(128)}) tuple(%fast.1)
}

ENTRY %main.1 (a.1: f32[16,4]) -> f32[16,4] {
  %a.1 = f32[16,4]{1,0:T(8,128)} parameter(0)
  %copy-start.1 = (f32[16,4]{1,0:T(8,128)S(1)}, f32[16,4]{1,0:T(8,128)}, u32[]) copy-start(%a.1)
  %copy-done.1 = f32[16,4]{1,0:T(8,128)S(1)} copy-done(%copy-start.1)
  %add.1 = f32[16,4]{1,0:T(8,128)} add(%copy-done.1, %a.1)
  %while.1 = (bf16[8]{0:T(128)}) while(%t), condition=%condition.1, body=%body.1
  ROOT %negate.1 = f32[16,4]{1,0:T(8,128)S(1)} negate(%add.1)
}
"""


def test_the_bytes_that_reach_the_large_memory_are_read_from_the_text():
    """A copy reads 256 bytes; the sum reads and writes 256, its other argument is fast; the last one reads 256. The loop
    reads 16."""
    assert traffic.hbm_bytes(OF_A_LOOP) == 256 + 512 + 256 + 16


def run(capsys, *arguments):
    code = plan.main(["plan", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def flags():
    return [flag for flag in tiny.flags("unused") if not flag.startswith("--workdir")]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config=configs/digits.py"], "flag --topology is missing; it must be a TPU slice, such as v5e:4x4, or local"),
        (["--topology=local"], "flag --config is missing; it must be a file of configs/"),
        (["--config=configs/digits.py", "--topology=a100:1"], "flag --topology = 'a100:1' is not allowed; it must be a TPU"),
        (["--config=configs/digits.py", "--topology=vacuum:3"], "flag --topology = 'vacuum:3' is not possible"),
        (["--config=configs/digits.py", "--topology=local", "--config.train.num_fsdp=3"], "train.num_fsdp = 3 must divide"),
        (["--config=configs/digits.py", "--topology=local", "--config.train.batch_size=9"], "train.batch_size = 9 must be"),
        (["--config=configs/digits.py", "--topology=local", "--config.train.nmu_fsdp=3"], "did you mean train.num_fsdp?"),
    ],
)
def test_bad_input_gets_one_sentence(capsys, arguments, sentence):
    code, _, err = run(capsys, *arguments)
    assert code == command.BAD_INPUT and err.startswith("error: ") and sentence in err and err.count("\n") == 1


@pytest.mark.slow
def test_the_devices_of_this_machine(capsys, tmp_path):
    small = "--config.data.device_cache_gib=0.1"
    code, out, _ = run(capsys, *flags(), "--topology=local", small, f"--out={tmp_path / 'plan.json'}")
    found = json.loads((tmp_path / "plan.json").read_text())
    assert code == 0 and found["fits"] and out.endswith("verdict     fits\n")
    assert found["training"]["num_images"] == 16 and found["sampling"]["num_images"] == 8
    assert found["training"]["flops"] > found["sampling"]["flops"] > 0 and found["training"]["memory"] > 0
    assert set(found["training"]["collectives"]) == {"all-reduce"} and found["sampling"]["collectives"] == {}


@pytest.mark.slow
def test_a_network_of_latents_is_planned_without_its_codec(capsys, tmp_path):
    of_latents = ["--config.data.codec=gone", "--config.data.latent_shape=(4,4,2)", "--config.sample.clip=none"]
    more = [*of_latents, "--config.data.device_cache_gib=0.1", f"--out={tmp_path / 'plan.json'}"]
    code, out, _ = run(capsys, *flags(), "--topology=local", *more)
    assert code == 0 and "codec       not counted" in out
    assert json.loads((tmp_path / "plan.json").read_text())["sampling"]["flops"] > 0


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_what_to_change(capsys, monkeypatch):
    chip = hardware.Chip(memory=2**21, bfloat16=1e12, float32=1e12, bandwidth=1e9, links=1e9)
    monkeypatch.setitem(hardware.PUBLISHED, "cpu", chip)
    code, out, _ = run(capsys, *flags(), "--topology=local", "--sampler=False", "--config.data.device_cache_gib=0.1")
    assert (
        code == command.RUN_FAILED
        and "verdict     does not fit: set train.shard_optimizer = True, model.num_remat_stages = 1" in out
    )
    assert "ms a step at best, for the" in out and "sampling" not in out


@pytest.mark.parametrize(
    ("dtype", "precision", "seconds"), [("float32", "highest", 6), ("float32", "default", 1), ("bfloat16", "highest", 1)]
)
def test_the_least_time_knows_that_float32_products_are_seldom_exact(capsys, dtype, precision, seconds):
    """By default a TPU multiplies float32 in one pass of bfloat16, and a GPU in TF32."""
    chip = hardware.Chip(memory=2**34, bfloat16=6e12, float32=1e12)
    compiled = plan.Plan(2**30, 2**20, 6e12, 0.0, {}, 1.0)
    found = plan._report(compiled, Config().with_values("model", dtype=dtype, precision=precision), chip, 8)
    assert found["bounds_s"]["compute"] == seconds and f"compute {seconds}e+03 ms" in capsys.readouterr().out


needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason='needs libtpu: pip install "jax[tpu]"')


@needs_libtpu
@pytest.mark.parametrize("topology", ["v4:4x4x4", "v5e:4x4", "v5p:4x4x4", "v6e:4x4"])
def test_parameters_can_be_split_over_any_part_of_a_slice(topology):
    devices = plan.devices_of(topology)
    for num_fsdp in (1, 2, 4, 8, 16):
        mesh = sharding.make_mesh(num_fsdp=num_fsdp, devices=devices)
        assert dict(mesh.shape) == {"data": len(devices) // num_fsdp, "fsdp": num_fsdp}


@needs_libtpu
@pytest.mark.parametrize(("topology", "devices"), [("v5e:2x2", "4 x TPU v5 lite"), ("v4:2x2x1", "4 x TPU v4")])
def test_a_slice_that_is_not_here(capsys, tmp_path, topology, devices):
    out = tmp_path / "plan.json"
    code, said, _ = run(capsys, *flags(), f"--topology={topology}", f"--out={out}", "--config.model.dtype=bfloat16")
    found = json.loads(out.read_text())
    assert code == 0 and "verdict     fits" in said and found["devices"] == devices
    assert found["training"]["collectives"]["all-reduce"] > 0 and found["sampling"]["collectives"] == {}
    assert 0 < found["training"]["least_s"] < 1
