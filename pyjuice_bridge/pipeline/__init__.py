"""A run from a config to a report, in stages whose results are kept and reused."""
