"""Measurements of speed, each a module with a command line."""

import residual  # noqa: F401 - before torch, as in a user's process
