"""A model on disk: names, paths and keys. Reads headers, no weights, and imports no torch."""
