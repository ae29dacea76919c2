"""Speed beside other programs that do the same work: ``python -m experiments.bench``."""
