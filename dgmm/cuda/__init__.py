"""CUDA kernels of our own, and what launches them.

The sources beside this package are compiled by CuPy when a kernel is first needed, for the shape
that it is needed for. Nothing here imports CuPy: arrays bring their namespace along.
"""
