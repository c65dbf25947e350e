"""A recipe with something in every table, for tests to change."""

EXAMPLE = """\
seed = 7

[[concepts]]
concept = "van gogh"
target = "monet"
aliases = ["vincent van gogh"]
prompts = ["swirling oil strokes"]
direct = ["a van gogh painting of a dog"]
indirect = ["starry night"]

[prompts]
templates = ["{}", "{} painting"]

[preserve]
prompts = ["a monet painting of a cat", "", "a cat"]

[[retain]]
concept = "pixel art"

[refine]
steps = 6
"""
