"""The program: python -m diffusion_jax.tools.plan."""

import sys

from diffusion_jax.tools import plan

if __name__ == "__main__":
    sys.exit(plan.main(sys.argv))
