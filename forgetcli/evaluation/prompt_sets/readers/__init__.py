"""Prompt-set formats, one file each; the file's name is the format's. See
`forgetcli.evaluation.prompt_sets`.
"""
