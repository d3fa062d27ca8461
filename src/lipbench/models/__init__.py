"""One system a file; the file name is the short name. Files that start with _ are shared."""
