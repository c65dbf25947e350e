"""From a recipe to an edited folder, and back: apply, plan, inspect, revert."""
