"""Measurements: the machine, speed beside the peers, growth, stores, clusters, memory, bits.

``python -m benchmarks`` runs what ``docs/performance.md`` shows. Ratios are quoted from one run;
nothing here is a timed test.
"""
