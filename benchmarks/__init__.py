"""The benchmarks: runstream beside its peers, measured in one run. Development only; no part of the package.

`python -m benchmarks` starts one fake model (`endpoint`), gives every subject an environment of its own
(`environments`), runs each load as a process of its own (`probe`, with the subjects of `subjects`), repeats that
interleaved (`measure`), and prints tables (`report`). What is measured and what is aimed at stands in `loads`.
"""
