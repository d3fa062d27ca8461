"""What the command line does beside its commands: arguments, recipes, names, messages."""
