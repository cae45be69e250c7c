"""Carries out any plan; knows nothing of deploying."""
