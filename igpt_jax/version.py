"""The version of this software; setup.py reads it from here."""

__version__ = "0.2.0"
