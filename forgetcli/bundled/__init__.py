"""What comes with the package: the embedded model, its judge, the recipes."""
