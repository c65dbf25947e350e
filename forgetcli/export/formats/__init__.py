"""Export formats, one module each; see `forgetcli.export`."""
