"""The fields of a config in words, for --help and for docs/config.md.

python -m diffusion_jax.compose.describe > docs/config.md
"""

from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.compose.sections import Section

INTRODUCTION = """# The config

Every field of a config. A file of `configs/` sets fields, and `--config.<field>=<value>` changes any of them.
The defaults are those of `configs/cifar10.py`. The fields marked "yes" may change when a run is resumed; a change of another
makes another run.
`python main.py --help` prints the same.

This page is made from `diffusion_jax/compose/fields.py` by `python -m diffusion_jax.compose.describe > docs/config.md`.
"""


def as_text() -> str:
    """Returns two lines for each field: name, default and meaning, then what is allowed, and whether it may change."""
    lines = []
    for name, field in FIELDS.items():
        free = "; may change when a run is resumed" if field.free else ""
        lines += [f"    {name} = {field.default!r}: {field.meaning}", f"        {field.allowed}{free}"]
    return "\n".join(lines)


def as_markdown() -> str:
    """Returns docs/config.md: a table for each section."""
    groups = {name: info for name, info in Config.model_fields.items() if isinstance(info.default, Section)}
    parts = [INTRODUCTION, _table([name for name in FIELDS if "." not in name])]
    for group, info in groups.items():
        parts += [f"## {group}", f"{info.description[0].upper()}{info.description[1:]}."]
        parts += [_table([name for name in FIELDS if name.startswith(f"{group}.")])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _table(names: list[str]) -> str:
    rows = ["| field | default | allowed | meaning | may change |", "|---|---|---|---|---|"]
    for name in names:
        field = FIELDS[name]
        cells = f"`{name}`", f"`{field.default!r}`", field.allowed, field.meaning, "yes" if field.free else ""
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(as_markdown(), end="")
