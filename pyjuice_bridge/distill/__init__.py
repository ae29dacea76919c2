"""Kinds of circuits and how each is distilled.  Adding one is a file and a line in ``registry``."""
