"""How many of the drawn molecules are stable, valid and distinct? Those of a run of configs/qm9.py, beside real ones.

    python -m diffusion_jax.tools.fetch qm9 --out=data/qm9
    python main.py --mode=sample --workdir=DIR
    python benchmarks/molecules.py --dump DIR/samples/.../samples_500x29x8.npz --real=data/qm9/qm9_test.npz

A molecule is stable if the bonds of each atom, as its distances say, add up to its valence. It is valid if RDKit takes it
with these bonds; its name is then the SMILES of its largest part, and names are distinct or not. Without RDKit this is left
out. Writes benchmarks/molecules.json, with the figures of [Hoogeboom et al. 2022, tables 1 and 2], and
docs/images/molecules.png: a row of real molecules above rows of drawn ones.
"""

import argparse
import importlib.util
import json
import pathlib
import platform
import shlex
import sys

import numpy as np
from scipy.sparse.csgraph import connected_components

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax.data import molecules
from diffusion_jax.runs import pictures

PUBLISHED = {
    "source": "Hoogeboom et al. 2022, arXiv 2203.17003, tables 1 and 2; published, not measured",
    "EDM": {"atoms_stable": 0.987, "molecules_stable": 0.820, "valid": 0.919, "valid_and_distinct": 0.907},
    "data": {"atoms_stable": 0.990, "molecules_stable": 0.952},
}
AT_ONCE, NUM_COLUMNS, NUM_ROWS = 500, 9, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", required=True, nargs="+", help="samples_NxMx8.npz of --mode=sample, of a run")
    parser.add_argument("--real", required=True, help="qm9_test.npz of tools.fetch")
    flags = parser.parse_args()
    *drawn, real = (np.load(path, allow_pickle=False)["arr_0"] for path in (*flags.dump, flags.real))
    manifests = [json.loads((pathlib.Path(path).parent / "manifest.json").read_text()) for path in flags.dump]
    result = {
        "command": shlex.join(["python", "benchmarks/molecules.py", *sys.argv[1:]]),
        "hardware": f"{platform.machine()}, CPU",
        "checkpoint_step": manifests[0]["checkpoint_step"],
        "molecules_seen": manifests[0]["images_seen"],
        "drawn": [{"num_steps": of["sample"]["num_steps"]} | figures(x) for of, x in zip(manifests, drawn, strict=True)],
        "real": figures(real),
        "published": PUBLISHED,
    }
    (ROOT / "benchmarks" / "molecules.json").write_text(json.dumps(result, indent=2) + "\n")
    rows = np.concatenate([real[:NUM_COLUMNS], drawn[0][: NUM_COLUMNS * (NUM_ROWS - 1)]])
    picture = pictures.encode_png(molecules.grid(rows, num_columns=NUM_COLUMNS))
    (ROOT / "docs" / "images" / "molecules.png").write_bytes(picture)
    print(json.dumps(result, indent=2))


def figures(x: np.ndarray) -> dict[str, float]:
    """Returns the shares of stable atoms and molecules, of each element, and of molecules that are valid and distinct.

    Of the atoms that are not stable `too_many_bonds` is the share of those with too many. `in_one_piece` is the share of
    molecules whose bonds join all atoms.
    """
    parts = [x[start : start + AT_ONCE] for start in range(0, len(x), AT_ONCE)]
    stable, are_atoms = (np.concatenate(of) for of in zip(*map(molecules.stability, parts), strict=True))
    orders = np.concatenate([molecules.bond_orders(part).astype(np.int8) for part in parts])
    surplus = orders.sum(-1) - molecules.VALENCES[molecules.elements(x)]
    in_one_piece = [connected_components(of[atoms][:, atoms])[0] == 1 for of, atoms in zip(orders, are_atoms, strict=True)]
    whole = np.all(stable | ~are_atoms, axis=1)
    kinds = np.bincount(molecules.elements(x)[are_atoms], minlength=len(molecules.TYPES)) / np.sum(are_atoms)
    return {
        "num_molecules": len(x),
        "atoms_stable": float(np.mean(stable[are_atoms])),
        "molecules_stable": float(np.mean(whole)),
        "molecules_stable_standard_error": float(np.std(whole) / np.sqrt(len(x))),
        "too_many_bonds": float(np.mean(surplus[are_atoms & ~stable] > 0)),
        "in_one_piece": float(np.mean(in_one_piece)),
        "elements": dict(zip(molecules.TYPES, np.round(kinds, 4).tolist(), strict=True)),
        **(names(x) if importlib.util.find_spec("rdkit") else {}),
    }


def names(x: np.ndarray) -> dict[str, float]:
    """Returns the shares of molecules that RDKit takes, and of those of a name that no earlier one has."""
    smiles = [name(one) for one in x]
    valid = [each for each in smiles if each]
    return {"valid": len(valid) / len(x), "valid_and_distinct": len(set(valid)) / len(x)}


def name(x: np.ndarray) -> str:
    """Returns the SMILES of the largest part of a molecule; '' where RDKit does not take it."""
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    orders, made = molecules.bond_orders(x[None])[0], Chem.RWMol()
    for kind in molecules.elements(x):
        if kind >= 0:
            made.AddAtom(Chem.Atom(molecules.TYPES[kind]))
    for one, other in np.argwhere(np.triu(orders)):
        made.AddBond(int(one), int(other), Chem.BondType.values[int(orders[one, other])])
    try:
        Chem.SanitizeMol(made)
        return Chem.MolToSmiles(max(Chem.GetMolFrags(made, asMols=True), key=lambda part: part.GetNumAtoms()))
    except Chem.MolSanitizeException:
        return ""


if __name__ == "__main__":
    main()
