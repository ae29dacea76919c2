"""One thread per test process: two workers with two threads each would wait for one another."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
