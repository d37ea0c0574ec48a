"""The page's models and its ONNX Runtime: python docs/demo/build.py, then python -m http.server --directory docs/demo

Writes docs/demo/built (45 MB): the networks of examples/ as ONNX, and files of the npm package onnxruntime-web, whose
licence is MIT. It needs npm, and the packages of `tools.export --to=onnx`.
"""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

DEMO = pathlib.Path(__file__).parent
sys.path.insert(0, str(DEMO.parents[1]))

from diffusion_jax.tools import export

RUNTIME = "onnxruntime-web@1.30.0"
PROGRAMS = ("ort.wasm.min.mjs", "ort.webgpu.min.mjs")  # the second is for WebGPU
PROGRAMS += tuple(f"ort-wasm-simd-threaded{kind}.{end}" for kind in ("", ".asyncify") for end in ("mjs", "wasm"))
MODELS = ("digits", "digits_classes", "digits_distilled")


def unpack_runtime(folder: pathlib.Path) -> None:
    """Writes the programs of the npm package, flat."""
    with tempfile.TemporaryDirectory() as packed:
        subprocess.run(["npm", "pack", "--silent", RUNTIME, "--pack-destination", packed], check=True)
        with tarfile.open(next(pathlib.Path(packed).glob("*.tgz"))) as archive:
            for name in PROGRAMS:
                (folder / name).write_bytes(archive.extractfile(f"package/dist/{name}").read())


def main() -> int:
    if shutil.which("npm") is None:
        print("error: npm is not installed, which brings onnxruntime-web.", file=sys.stderr)
        return 2
    built = DEMO / "built"
    shutil.rmtree(built, ignore_errors=True)
    for name in MODELS:  # with every noise level, among which the page chooses
        flags = [f"--workdir={DEMO.parents[1] / 'examples' / name}", f"--out={built / name}", "--to=onnx"]
        if code := export.main(["export", *flags, "--config.sample.num_steps=1000"]):
            return code
    unpack_runtime(built)
    return 0


if __name__ == "__main__":
    sys.exit(main())
