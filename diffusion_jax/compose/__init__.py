"""The composition root: a config becomes the parts that it names. One file for each topic of a config.

Nothing below builds anything from a config; of those above, jobs/ read the numbers of steps and the intervals from it, and
model.py what to generate.
"""
