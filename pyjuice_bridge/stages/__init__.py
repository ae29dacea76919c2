"""Stages of work whose results are kept, and what is said while they run."""
