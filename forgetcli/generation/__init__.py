"""Images from a model, seeded and resumable."""
