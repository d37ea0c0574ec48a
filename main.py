"""Trains diffusion models, and generates images with them: python main.py --help. The flags are in diffusion_jax/main.py."""

import sys

from diffusion_jax.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
