"""Shared parts of the editing methods: second moments, the closed form, refinement,
cross-attention, fine-tuning, and the check after the edit.
"""
