"""One scenario through the stock hook and through ours, on fresh stores: everything a user could notice must agree.

`scenarios.py` lists what is done, `snapshot.py` what is looked at afterwards, `test_parity.py` runs and compares.
With `pytest --hook=stock` both runs use the stock hook, which shows what the harness itself cannot tell apart.
"""
