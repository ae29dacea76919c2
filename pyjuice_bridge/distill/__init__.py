"""Latent variable distillation: counting, patch circuits and the bound they raise."""
