"""How this process computes: on which device, with how many threads, beside which other processes,
and with quiet libraries.
"""
