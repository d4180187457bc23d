"""Pack photographs of faces and their eye masks into WebDataset shards.

Nothing here imports torch, so that packing starts at once.
"""

__version__ = "0.1.0"
