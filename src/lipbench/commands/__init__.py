"""The commands, one file each; the file name is the command. Files that start with _ are shared."""
