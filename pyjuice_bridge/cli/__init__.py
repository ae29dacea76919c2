"""The command line.  Importing it loads neither NumPy nor PyTorch: commands do when they run."""
