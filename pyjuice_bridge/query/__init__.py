"""Questions to a trained circuit."""
