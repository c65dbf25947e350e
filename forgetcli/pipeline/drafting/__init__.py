"""Drafts a recipe from a concept's name: the kind of the concept, its target, and what to preserve.

Word lists propose candidate words, and the unedited model's text encoder decides by similarity.
Words that it encodes almost like the concept are edited as aliases. Similar but distinct words are
preserved.
"""
