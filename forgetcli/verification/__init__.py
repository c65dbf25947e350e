"""Whether an edited folder is what its manifest says, and how far that can be proved."""
