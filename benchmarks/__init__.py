"""Measurements: speed beside the peers, memory under a limit, bits on any number of workers.

``python -m benchmarks`` runs what ``docs/performance.md`` shows. Ratios are quoted from one run;
nothing here is a timed test.
"""
