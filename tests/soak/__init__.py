"""A long trial of one process: thousands of runs with random faults, policies, cancels and readers."""
