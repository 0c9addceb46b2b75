"""What usagekit costs, measured beside something that does less: `python -m benchmarks`.

Ratios of one run only: every variant is timed in every round, in random order, and compared with its neighbours of
the same round. `noop2` is the baseline a second time, so what it differs from the baseline is noise.
"""
