"""Measurements. `python -m bench` compares whole requests side by side; see README.md for it and for the others."""
