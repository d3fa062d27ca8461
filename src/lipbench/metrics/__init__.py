"""One metric a file: the pure function first, the torchmetrics class below it."""
