"""The page of runs: what it says is what their workdirs hold, and it works in a browser."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
import tomllib

import numpy as np
import pytest
from PIL import Image
from test_architecture import PACKAGE, ROOT

from diffusion_jax.runs import pictures, report, storage
from diffusion_jax.tools import report as tool

STEPS = (10, 20, 30)
HARNESS = """
<script>
const said = {}, $$ = query => [...document.querySelectorAll(query)];
const sources = () => $$("figure img").map(image => image.src);
said.headings = $$("h2, h3").map(each => each.textContent);
said.keys = $$(".key").map(key => [...key.children].filter(each => each.tagName != "svg").map(each => each.textContent));
said.last = sources();
const slider = document.getElementById("step");
slider.value = 0;
slider.dispatchEvent(new Event("input"));
said.first = sources();
said.at = document.getElementById("at").textContent;
said.differing = $$(".differs th").map(each => each.textContent);
said.cells = $$("td").map(each => each.textContent);
said.text = document.querySelector("main").textContent;
said.overflow = document.documentElement.scrollWidth - innerWidth;
$$("#controls label")[2].click();
said.hidden = $$(".key").map(key => key.children.length / 3);
addEventListener("load", () => {
  said.sizes = $$("figure img").map(image => image.naturalWidth);
  Object.assign(document.body.appendChild(document.createElement("pre")), {id: "said", textContent: JSON.stringify(said)});
});
</script>
"""


def make_run(workdir, *, scale=1.0, learning_rate=2e-3):
    """Makes a workdir of three steps with two lines each, and the first half of another line."""
    lines = []
    for step in STEPS:
        lines += [{"step": step, "held_out_loss_raw": scale * 3 / step}]
        lines += [{"step": step, "loss": scale / step, "loss_q1": 0.5, "loss_q4": 0.1, "grad_norm": float("nan"), "new": 7}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    storage.write_text(workdir / "metrics.jsonl", text + '{"step": 40, "loss": 0.0')
    stored = {"format_version": 13, "config": {"train": {"learning_rate": learning_rate}, "data": {"path": "</script><b>"}}}
    storage.write_text(workdir / "config.json", json.dumps(stored | {"versions": {"jax": "0.10.2"}, "device": "cpu"}))
    for step in STEPS:
        for name in ("raw", "ema0.99"):
            picture = np.full((4, 4 + step, 3), 10 * step * scale % 256, np.uint8)
            storage.write_bytes(workdir / "previews" / f"step_{step:07d}_{name}.png", pictures.encode_png(picture))
    storage.write_bytes(workdir / "samples" / "one" / "strip.png", pictures.encode_png(np.zeros((4, 4, 1), np.uint8)))
    figure = {"value": 3.25, "standard_error": 0.5}
    compared = {"value": figure, "matched": figure | {"value": 4.5}, "floor": figure | {"value": 1.5}, "num_matched": 30}
    result = {"name": "step_0000010", "num_images": 60, "features": {"network": "pixels", "size": 0}, "num_values": 64}
    result |= {"against": {"training": {"made_from": {}, "figures": {"frechet_distance": compared}}}}
    storage.write_text(workdir / "evaluate" / "x" / "evaluate.json", json.dumps([result, result | {"name": "step_0000030"}]))
    return workdir


def data_of(page):
    """Returns what a page holds of its runs."""
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


@pytest.fixture
def two(tmp_path):
    return [
        make_run(storage.path(tmp_path) / "a" / "run"),
        make_run(storage.path(tmp_path) / "b" / "run", scale=2.0, learning_rate=1e-3),
    ]


def test_values_are_those_of_metrics_and_what_is_half_written_or_not_finite_is_left_out(two):
    first, second = data_of(report.page(two))
    assert set(first["curves"]) == {"loss", "held_out_loss_raw", "loss_q1", "loss_q4", "new"}
    assert first["curves"]["loss"]["points"] == [[step, 1 / step] for step in STEPS]
    assert second["curves"]["held_out_loss_raw"]["last"] == [30, 0.2]
    assert first["config"]["train.learning_rate"] == "0.002" and first["machine"]["versions.jax"] == '"0.10.2"'


def test_a_run_is_called_by_its_folder_and_by_its_whole_path_where_two_are_alike():
    assert report.names([storage.path(name) for name in ("/x/a/", "/y/b")]) == ["a", "b"]
    assert report.names([storage.path(name) for name in ("/x/a", "/y/a", "/x/b")]) == ["/x/a", "/y/a", "b"]


def test_long_runs_are_thinned_to_means_between_their_extremes():
    values = np.random.default_rng(0).normal(size=1203)
    found = np.array(report.thinned([[step, value] for step, value in enumerate(values)]))
    assert len(found) == 401 <= report.MOST_POINTS and found[-1, 0] == 1202
    np.testing.assert_allclose(found[:, 1:], [[v.mean(), v.min(), v.max()] for v in values.reshape(401, 3)])


def test_a_page_has_a_bounded_number_of_previews_with_the_first_and_the_last(two):
    for step in range(100, 200):
        shutil.copy(two[0] / "previews" / "step_0000010_raw.png", two[0] / "previews" / f"step_{step:07d}_raw.png")
    first, second = data_of(report.page(two))
    shown = [each["step"] for each in first["previews"]]
    assert len(shown) == report.MOST_PICTURES // 2 // 2 and (shown[0], shown[-1]) == (10, 199)
    assert first["num_previews"] == 103
    assert [list(each["pictures"]) for each in second["previews"]] == [["raw", "ema0.99"]] * 3


def test_a_picture_is_itself_or_small_even_where_it_is_noise():
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    small, large = pictures.encode_png(noise[:9, :9]), pictures.encode_png(noise)
    assert base64.b64decode(pictures.data_uri(small).partition(",")[2]) == small
    kind, _, text = pictures.data_uri(large).partition(",")
    content = base64.b64decode(text)
    assert kind == "data:image/jpeg;base64" and len(content) <= pictures.MOST_BYTES < len(large)
    assert Image.open(io.BytesIO(content)).size == (pictures.MOST_SIDE, pictures.MOST_SIDE)


def test_what_is_damaged_is_named_and_left_out(two, capsys):
    (two[0] / "config.json").write_text("[")
    (two[0] / "evaluate" / "x" / "evaluate.json").write_text('[{"name": 1}]')
    (two[0] / "previews" / "step_0000030_raw.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    [found] = data_of(report.page(two[:1]))
    assert (found["config"], found["evaluations"], found["previews"][2]["pictures"]["raw"]) == ({}, [], "")
    said = capsys.readouterr().out
    assert all(name in said for name in ("config.json is left out", "evaluate.json is left", "step_0000030_raw.png is left"))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "flag --workdir is missing"),
        (["--workdir=none"], "flag --workdir = 'none' is not there"),
        (["--workdir=empty"], "flag --workdir = 'empty' is not the folder of a run: it has no metrics.jsonl."),
        (["--workdir=begun"], "workdir 'begun' has no metrics: a run writes a line"),
        (["--workdir=a/run", "--workdir=a/../a/run"], "flag --workdir = 'a/run' is given twice"),
        (["--workdir=a/run", "--out=none/r.html"], "there is no folder 'none'"),
        (["--workdir=a/run", "--out=a/run/config.json"], "must be a file such as report.html"),
        (["--workdir=a/run", "--config=configs/digits.py"], "flag --config has no effect on this program"),
        (["--workdir=a/run", "--config.predicts=v"], "config field predicts has no effect"),
    ],
)
def test_bad_input_is_a_sentence(flags, sentence, two, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    assert tool.main(["report", *flags]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and not list(tmp_path.glob("*.html"))


def test_data_files_of_the_package_are_in_its_wheel():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["diffusion_jax"]
    files = {file for file in PACKAGE.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert files and files == {file for pattern in patterns for file in PACKAGE.glob(pattern)}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_in_a_browser(two, tmp_path, width):
    """Its parts are there, its curves end at the values of the files, its slider moves the images, and nothing fails."""
    assert tool.main(["report", *[f"--workdir={workdir}" for workdir in two], f"--out={tmp_path}/report.html"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href|url|@import)\W{1,3}https?:""", page)
    (tmp_path / "test.html").write_text(page.replace("</html>", HARNESS + "</html>"))
    options = ["--headless", "--no-sandbox", "--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile"]
    options += [f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom", f"file://{tmp_path}/test.html"]
    done = subprocess.run(["chromium", *options], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    said = json.loads(html.unescape(re.findall(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)[0]))
    expected = [(two[0], "0.03333", "0.1"), (two[1], "0.06667", "0.2")]  # of the last steps, to four digits
    parts = ["Curves", "loss", "loss by quartile of t", "new", "Previews", "Evaluations", "Frechet distance"]
    assert {*parts, "Generation strips", "Config", "Hardware and versions"} <= set(said["headings"])
    [first, second] = [[f"{name}: loss", loss, f"{name}: held out loss raw", held] for name, loss, held in expected]
    assert said["keys"][0] == first + second
    assert said["at"] == "10" and len(said["first"]) == len(said["last"]) == 4 + 2
    assert [a == b for a, b in zip(said["first"], said["last"], strict=True)] == [False] * 4 + [True] * 2
    assert said["sizes"][:4] == [14] * 4 and said["hidden"][0] == 2 and said["overflow"] <= 0
    assert "</script><b>" in said["text"] and {f"{value}\u00a0±\u00a00.5" for value in (3.25, 4.5, 1.5)} <= {*said["cells"]}
    assert set(said["differing"]) == {"train.learning_rate"} and "All 2 fields, of which 1 differ" in said["text"]
