"""lipbench: a benchmark suite for systems that make a mouth or a face speak."""

__version__ = "0.1.0"
