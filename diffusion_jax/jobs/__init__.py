"""One file for each mode of main.py, each with one function `run`."""
