"""kill -9 leaves nothing to be seen in the end: the short form of benchmarks/chaos.py."""

import json

import pytest

from benchmarks import chaos

FIELDS = chaos.FIELDS | {
    "train.num_steps": 24,
    "train.log_every": 2,
    "train.checkpoint_every": 4,
    "train.sample_every": 1000,
}
SLOW_LOGS = FIELDS | {"train.tensorboard": True}  # takes seconds to import, for which no line of metrics.jsonl may wait


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(tmp_path):
    """Killed while a checkpoint is written, and in the steps after one has just become whole; each metric once."""
    reference, run = tmp_path / "reference", tmp_path / "run"
    assert not chaos.start_once(chaos.train_command(reference, FIELDS), reference, None)["killed"]
    for kill, fields in [(chaos.Kill("save", 0.05), FIELDS), (chaos.Kill("saved", 0.0), SLOW_LOGS)]:
        row = chaos.start_once(chaos.train_command(run, fields), run, kill)
        assert row["killed"] and not row["lost"] and not row["warnings"]
    assert 0 < chaos.latest_step(run) < FIELDS["train.num_steps"]
    row = chaos.start_once(chaos.train_command(run, FIELDS), run, None)
    assert not row["killed"] and not row["lost"] and not row["warnings"]
    assert chaos.differences(chaos.last_checkpoint(reference), chaos.last_checkpoint(run)) == []
    assert chaos.wrong_lines(reference, run, FIELDS) == []


def test_what_differs_is_found(tmp_path):
    """A comparison that cannot fail proves nothing."""
    fields = {"train.num_steps": 6, "train.log_every": 2}
    for name, steps in {"reference": [2, 4, 6], "twice": [2, 4, 4, 6], "lost": [2, 6], "turned": [4, 2, 6]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))
    found = {
        name: chaos.wrong_lines(tmp_path / "reference", tmp_path / name, fields) for name in ("twice", "lost", "turned")
    }
    assert found == {
        "twice": ['metrics.jsonl has {"step": 4}'],
        "lost": ['metrics.jsonl lacks {"step": 4}'],
        "turned": ["metrics.jsonl is out of order"],
    }
    a, b = {".step": ("int32 ()", b"\0"), ".x": ("int8 (1,)", b"\0")}, {".step": ("int32 ()", b"\1")}
    assert chaos.differences(a, b) == [".step", ".x"] and chaos.differences(a, a) == []
