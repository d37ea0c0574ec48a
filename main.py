"""Trains diffusion models, and draws from them: python main.py --help. The flags are in diffusion_jax/jobs/main.py."""

import sys

from diffusion_jax.jobs.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
