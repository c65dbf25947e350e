"""An edited folder: what `apply` writes and everything else reads."""
