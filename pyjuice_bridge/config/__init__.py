"""What the sections of a config are made of, how they are read, and how mistakes are explained.

Every mistake becomes one sentence (``messages``) that names the field, the value given and what is
allowed.  The whole config is put together in ``runner.config``.
"""
