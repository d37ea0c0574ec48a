"""The composition root: a config becomes the parts that it names. One file for each topic of a config.

No other room builds parts from a config. jobs/ take numbers of steps and intervals from it, and model.py what to generate.
"""
