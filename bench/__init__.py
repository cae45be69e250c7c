"""Deploys and rollbacks beside other tools, on one real server, in one run: `python -m bench`."""
