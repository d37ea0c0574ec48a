"""Data sets: where images come from, how stored data becomes x_0, and how batches reach the devices."""
