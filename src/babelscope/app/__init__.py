"""The explorer: a model or a run to play with in a browser on this machine.

`session` and the files of one idea each (`sentences`, `switches`, `neurons`, `heads`) do the work and know nothing of
any web framework; `interface` lays it out, `guard` and `server` let only the right visitor in.
"""
