"""What metrics build on: base classes, checks of their input, and observers."""
