"""Bytes on disk: atomic writes, copies, digests, safetensors headers, the hub's cache. Knows no
model and imports no torch.
"""
