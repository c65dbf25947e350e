"""Many edits side by side: comparison of methods, tuning, the demo."""
