"""What the GPU paths reach on the device at hand: ``python -m benchmarks.gpu``."""
