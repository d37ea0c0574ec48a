"""Whether the page of docs/demo draws what Python draws: python benchmarks/demo.py [--chromium=chromium]

It needs docs/demo/built (python docs/demo/build.py) and Chromium, which it starts without a window. Each case is set in the
form of the page; the grey levels of its canvases are compared with `dj.load(...).sample(...)` of the same settings. It ends
with 1 where one differs by more than one level, or the page reports an error. Writes benchmarks/demo.json, and into the
folder that --pictures names demo.png and demo_phone.png, the page on a laptop and on a phone.
"""

import argparse
import base64
import contextlib
import functools
import http.server
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax.compose import stored

CASES = {
    "digits, DDIM": ("digits", {"sampler": "ddim", "steps": 20, "seed": 0}),
    "digits, ancestral": ("digits", {"sampler": "ancestral", "steps": 100, "seed": 1}),
    "digits, all 1,000 ancestral steps": ("digits", {"sampler": "ancestral", "steps": 1000, "seed": 2, "count": 16}),
    "sevens, DDIM": ("digits_classes", {"sampler": "ddim", "steps": 20, "seed": 3, "label": 7, "guidance": 1.5}),
    "threes, ancestral": (
        "digits_classes",
        {"sampler": "ancestral", "steps": 50, "seed": 2**31 - 1, "label": 3, "guidance": 1},
    ),
    "all classes, DDIM": ("digits_classes", {"sampler": "ddim", "steps": 50, "seed": 4, "label": -1, "guidance": 2.5}),
    "distilled, 1 step": ("digits_distilled", {"steps": 1, "seed": 0}),
    "distilled, 2 steps": ("digits_distilled", {"steps": 2, "seed": 0}),
    "distilled, 4 steps": ("digits_distilled", {"steps": 4, "seed": 0}),
}
COUNT = 64  # images of a case that does not say
SET = """async (values) => {
  const form = document.getElementById('form'), status = document.getElementById('status')
  const done = async () => {
    while (!/ images in |error/.test(status.value)) await new Promise((resolve) => setTimeout(resolve, 20))
  }
  await done()
  form.elements.model.value = values.model
  form.elements.model.dispatchEvent(new Event('change'))
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value
  form.requestSubmit()
  await done()
  const grey = (canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
    return [...data.filter((_, i) => i % 4 === 0)]
  }
  return { status: status.value, images: [...document.querySelectorAll('canvas')].map(grey) }
}"""


class Page:
    """A page in Chromium, which is spoken to in the DevTools protocol through pipes."""

    def __init__(self, chromium: str, folder: str):
        to_read, self._to_write = os.pipe()
        to_hear, to_say = os.pipe()
        flags = f"--headless --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir={folder}"
        command = ["bash", "-c", f'exec "$0" {flags} 3<&{to_read} 4>&{to_say}', chromium]
        self.process = subprocess.Popen(command, pass_fds=(to_read, to_say), stderr=subprocess.DEVNULL)
        os.close(to_read), os.close(to_say)
        self._heard, self._number, self._session, self.errors = os.fdopen(to_hear, "rb"), 0, {}, []
        self.version = self.ask("Browser.getVersion")["product"]
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Returns what the browser answers; keeps the errors that the page reports meanwhile."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._to_write, json.dumps(message).encode() + b"\0")
        while True:
            heard = json.loads(self._message())
            is_error = heard.get("params", {}).get("entry", {}).get("level") == "error"
            if is_error or heard.get("method") == "Runtime.exceptionThrown":
                self.errors.append(heard["params"])
            if heard.get("id") == self._number:
                return heard["result"]

    def _message(self) -> bytes:
        found = bytearray()
        while (byte := self._heard.read(1)) != b"\0":
            found += byte or exit("error: the browser ended.")
        return bytes(found)

    def run(self, script: str) -> Any:
        """Returns the value of JavaScript, awaited."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return found["result"].get("value")

    def draw(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Returns what the page says and the grey levels of its images, after it drew with some settings of its form."""
        return self.run(f"({SET})({json.dumps(settings)})")

    def picture(self, width: int, height: int, scale: float) -> bytes:
        """Returns a PNG of the page in a window of some size."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.run("new Promise((resolve) => setTimeout(resolve, 500))")
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def opened(chromium: str) -> Iterator[Page]:
    """Gives the page, served by Python's own server and loaded."""
    handler = functools.partial(Quiet, directory=ROOT / "docs" / "demo")
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = Page(chromium, folder)
        try:
            page.ask("Page.navigate", url=f"http://localhost:{server.server_port}/")
            page.run("new Promise((resolve) => document.readyState === 'complete' ? resolve() : onload = resolve)")
            yield page
        finally:
            page.process.kill()
            page.process.wait()
            server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """The handler of `python -m http.server`, which says nothing."""

    def log_message(self, *arguments: Any) -> None: ...


def compared(page: Page, example: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns how far the page's images of some settings are from Python's."""
    found = page.draw({"model": example, "count": COUNT, **settings})
    if "error" in found["status"]:
        exit(f"error: the page says: {found['status']}")
    count, asked = len(found["images"]), {"sampler": "ddim", **settings}
    asked = {name: value for name, value in asked.items() if name not in ("steps", "count")}
    model = dj.load(ROOT / "examples" / example)
    wanted = model.sample(count, num_steps=settings["steps"], batch_per_device=count, **asked)
    difference = np.abs(np.array(found["images"]) - wanted.reshape(count, -1).astype(int))
    values = f"{np.sum(difference > 0)} of {difference.size:,}"
    return {"largest_difference": int(difference.max()), "values_that_differ": values}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--pictures", default="", help="a folder for pictures of the page")
    flags = parser.parse_args()
    result = {"command": "python benchmarks/demo.py", "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})"}
    with opened(flags.chromium) as page:
        result |= {"browser": page.version, "versions": stored.versions(), "cases": {}}
        for name, case in CASES.items():
            result["cases"][name] = compared(page, *case)
            print(f"{name}: {result['cases'][name]}", flush=True)
        if flags.pictures:
            page.draw({"model": "digits_classes", "count": COUNT, "guidance": 1.5})
            for name, size in {"demo": (1200, 720, 1), "demo_phone": (390, 844, 2)}.items():
                (pathlib.Path(flags.pictures) / f"{name}.png").write_bytes(page.picture(*size))
    (ROOT / "benchmarks" / "demo.json").write_text(json.dumps(result, indent=2) + "\n")
    print(*page.errors, sep="\n")
    return int(bool(page.errors) or any(case["largest_difference"] > 1 for case in result["cases"].values()))


if __name__ == "__main__":
    sys.exit(main())
