"""A run from config to report: one loop over arms and stages."""
