"""The program: python -m diffusion_jax.tools.fetch."""

import sys

from diffusion_jax.tools import fetch

if __name__ == "__main__":
    sys.exit(fetch.main(sys.argv))
