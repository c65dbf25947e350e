"""From a concept's name to a recipe: what kind it is, what it turns into, what must stay.

Word lists propose and the unedited text encoder decides: it reads every candidate, and what it
reads as the concept itself is edited with it, what it reads as a neighbour is preserved.
"""
