"""Programs beside main.py, each a file: python -m diffusion_jax.tools.<name>."""
