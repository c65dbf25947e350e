"""Workflows that edit and evaluate: comparing methods, tuning, erasing by name, the demo."""
