"""Model families, one file each; the file's name is the family's. See `forgetcli.models`."""
