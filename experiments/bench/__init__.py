"""Speed of the engines beside other programs that do the same work: ``python -m experiments.bench``."""
