"""A rendered corpus in GRID's layout: parametric faces, eSpeak NG's voices, and the exact truth about both."""
