"""Bytes on disk: atomic writes, copies, digests, safetensors headers, the hub's cache.

This package knows nothing about models and imports no torch.
"""
