"""Whether our Inception-v3 is that of pytorch-fid and of torch-fidelity, on random weights and the same images.

    python3 -m venv parity && parity/bin/pip install -r requirements.txt torch torchvision pytorch-fid torch-fidelity
    parity/bin/python benchmarks/inception_parity.py

The published weights are not needed: every parameter is drawn, with magnitudes that keep the activations near one, written
as each code base stores it, and read back by the library. Writes benchmarks/inception_parity.json.
"""

import argparse
import json
import pathlib
import platform
import sys
import tempfile
from importlib import metadata
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from diffusion_jax.metrics import frechet
from diffusion_jax.networks import inception
from diffusion_jax.runs import storage
from diffusion_jax.weights import inception as weights
from diffusion_jax.weights import maps, tensors

SIZES = ((32, 32), (299, 299), (320, 350))  # of the images
NUM_IMAGES = 4
NUM_IN_SET = 64  # of two sets with a Frechet distance; both covariances are singular, as those of few images always are
OUT = pathlib.Path(__file__).with_suffix(".json")


def random_params(like: Any, seed: int) -> Any:
    """Returns parameters with drawn numbers, in the order of the leaves."""
    random = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        drawn = random.standard_normal(leaf.shape, np.float32)
        if leaf.ndim > 1:
            return drawn * np.sqrt(2 / np.prod(leaf.shape[:-1])).astype(np.float32)
        return 1 + 0.3 * np.tanh(drawn) if path[-1].key in ("scale", "var") else 0.1 * drawn

    return jax.tree_util.tree_map_with_path(draw, like)


def as_torch(params: Any) -> dict[str, Any]:
    """Returns the same numbers by the names and with the axes of torch."""
    import torch

    return {name: torch.from_numpy(tensor) for name, tensor in maps.write(params, weights.map_of(params)).items()}


def of_pytorch_fid(state: dict[str, Any], images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what pytorch-fid computes: the features."""
    import torch
    from pytorch_fid import inception as pytorch_fid

    with mock.patch.object(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: state):
        model = pytorch_fid.InceptionV3().eval()
    with torch.no_grad():
        return {"features": model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)[0].flatten(1).numpy()}


def of_torch_fidelity(state: dict[str, Any], images: np.ndarray, folder: str) -> dict[str, np.ndarray]:
    """Returns what torch-fidelity computes: features and logits; and what guided-diffusion's sFID reads, by a hook."""
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as torch_fidelity

    torch.save(state, file := f"{folder}/state.pth")
    names = ["2048", "logits_unbiased", "logits"]
    model = torch_fidelity.FeatureExtractorInceptionV3("ours", names, feature_extractor_weights_path=file)
    kept = []
    model.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, output: kept.append(output[:, :7]))
    with torch.no_grad():
        features, unbiased, logits = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    found = {"features": features, "logits_unbiased": unbiased, "logits": logits}
    found["spatial"] = kept[0].permute(0, 2, 3, 1).flatten(1)
    return {name: value.numpy() for name, value in found.items()}


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the largest difference of any number, over the largest number of theirs."""
    return float(np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs)))


def of_size(state: dict[str, Any], params: dict, size: tuple[int, int], folder: str) -> dict:
    """Returns the differences for images of one size."""
    images = np.random.default_rng(size).integers(0, 256, (NUM_IMAGES, *size, 3), dtype=np.uint8)
    found = {"size": list(size)}
    for resize, theirs in {
        "pytorch_fid": of_pytorch_fid(state, images),
        "tensorflow": of_torch_fidelity(state, images, folder),
    }.items():
        ours = jax.jit(inception.inception(resize).apply)(params, jnp.asarray(images))
        found[resize] = {name: difference(ours[name], value) for name, value in theirs.items()}
    return found


def of_sets(state: dict[str, Any], params: dict) -> dict[str, float]:
    """Returns the Frechet distance of two sets by pytorch-fid, network and arithmetic, and by the library."""
    from pytorch_fid import fid_score

    noise = np.random.default_rng(0).integers(0, 256, (2, NUM_IN_SET, 32, 32, 3), dtype=np.uint8)
    sets = [noise[0], noise[1] // 2 + 64]
    theirs = [of_pytorch_fid(state, images)["features"] for images in sets]
    moments = [part for rows in theirs for part in (np.mean(rows, axis=0), np.cov(rows, rowvar=False))]
    apply = jax.jit(inception.inception("pytorch_fid").apply)
    ours = [np.asarray(apply(params, jnp.asarray(images))["features"]) for images in sets]
    found = {"pytorch_fid": float(fid_score.calculate_frechet_distance(*moments))}
    found["ours"] = frechet.distance(*(frechet.of_features(rows) for rows in ours))
    return {"num_images": NUM_IN_SET, **found, "relative_difference": abs(found["ours"] / found["pytorch_fid"] - 1)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    import torch

    like = jax.eval_shape(inception.inception("tensorflow").init, jax.random.key(0))
    drawn = random_params(like, seed=0)
    state = as_torch(drawn)
    with tempfile.TemporaryDirectory() as folder:
        same = []
        for legacy in (True, False):
            torch.save(state, file := f"{folder}/{legacy}.pth", _use_new_zipfile_serialization=not legacy)
            params = weights.read(tensors.read(storage.path(file)), like)
            same.append(all(jax.tree.leaves(jax.tree.map(np.array_equal, params, drawn))))
        rows = [of_size(state, params, size, folder) for size in SIZES]
    names = ("torch", "torchvision", "pytorch-fid", "torch-fidelity", "jax")
    largest = max(value for row in rows for part in row.values() if isinstance(part, dict) for value in part.values())
    result = {
        "command": "python benchmarks/inception_parity.py",
        "machine": f"{platform.machine()}, CPU",
        "versions": {name: metadata.version(name) for name in names},
        "what": "largest difference of any number over the largest number of theirs, random weights, uint8 noise",
        "num_images": NUM_IMAGES,
        "torch_files_of_both_kinds_give_the_same_parameters": all(same),
        "largest": largest,
        "frechet_distance": of_sets(state, params),
        "rows": rows,
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
