"""Kinds of data: images, text and tables.  Adding one is a file and a line in ``registry``."""
