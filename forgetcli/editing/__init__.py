"""What editing methods share: second moments, the closed form, refinement, cross-attention,
fine-tuning, the check afterwards.
"""
