"""What is known of images before they are drawn."""

from __future__ import annotations

from typing import Any, NamedTuple


class Prompt(NamedTuple):
    """Everything is in raster order but `order` itself."""

    tokens: Any
    """int [B, T]; read only where known."""
    known: Any
    """bool [B, T]; these tokens stay as they are."""
    order: Any = None
    """int [B, T], the position that each slot predicts; None for raster order."""
    class_id: Any = None
    """int [B] for a class-conditional model, -1 for no class."""
    prefix: Any = None
    """float [G, P, W] for a model with prefix slots. Each prefix serves the next B / G images."""
    aligned: Any = None
    """float [B, T, A] for a model with aligned values."""
