"""Measuring latency: models timed in turns, by stage, by size, and by share of pure pixels."""

from __future__ import annotations

from .machine import PACKAGES, machine, versions

__all__ = ["PACKAGES", "machine", "versions"]
