"""Every fault at every step of a session: what was promised happens, soon, and nothing is left behind.

matrix.py says which cells there are and what is promised in each, site.py has the hosts, tap.py stops a session at a
step, and strikes.py does what goes wrong there.  `make faults` runs all cells and writes the table of the README.
"""
